// Thirty steps of the trainer, AdamW with warm-up, cosine decay and clipping: loss, gradient norm, learning rate and
// where the parameters end.
#include <algorithm>
#include <cmath>

#include "coluber/model.h"
#include "coluber/train.h"
#include "core/check.h"
#include "selftest/experiment.h"

namespace coluber::selftest {
namespace {

ModelConfig config_of(const Json& json) {
  const Json& mixer = json.at("ssm_cfg");
  const std::string layer = mixer.value("layer", "Mamba1");
  if (layer != "Mamba1") refuse(ErrorCode::kUnsupported, "training_trace", join("layer ", layer, " is not there yet"));
  ModelConfig config;
  config.d_model = json.at("d_model").get<std::int64_t>();
  config.n_layer = json.at("n_layer").get<std::int64_t>();
  config.vocab_size = json.at("vocab_size").get<std::int64_t>();
  config.pad_vocab_size_multiple = json.at("pad_vocab_size_multiple").get<std::int64_t>();
  config.tie_embeddings = json.at("tie_embeddings").get<bool>();
  config.residual_in_fp32 = json.at("residual_in_fp32").get<bool>();
  config.norm = json.at("rms_norm").get<bool>() ? NormKind::kRms : NormKind::kLayer;
  config.mixer.d_state = mixer.value("d_state", std::int64_t{16});
  config.resolve();
  return config;
}

TrainOptions train_options_of(const Json& options) {
  TrainOptions train;
  train.max_steps = options.at("steps").get<std::int64_t>();
  train.schedule.lr = options.at("lr_max").get<double>();
  train.schedule.lr_min = options.at("lr_min").get<double>();
  train.schedule.warmup_steps = options.at("warmup_steps").get<std::int64_t>();
  train.adamw.beta1 = options.at("betas").at(0).get<double>();
  train.adamw.beta2 = options.at("betas").at(1).get<double>();
  train.adamw.eps = options.at("eps").get<double>();
  train.adamw.weight_decay = options.at("weight_decay").get<double>();
  train.adamw.clip = options.at("clip").get<double>();
  return train;
}

Model start_of(const GoldenCase& golden, const Tensors& in) {
  const Model model = Model::create(config_of(golden.options.at("config")), 0, float_dtype(in)).to(device_of(in));
  const auto decayed = golden.options.at("decayed").get<std::vector<std::string>>();
  for (const Parameter& parameter : model.parameters()) {
    const Tensor& value = parameter.var.value();
    value.copy_from(required(in, "init/" + parameter.name).contiguous().reshape(value.shape()));
    const bool decays = std::find(decayed.begin(), decayed.end(), parameter.name) != decayed.end();
    check_equal("training_trace", join("weight decay of ", parameter.name), decays ? 1 : 0,
                parameter.weight_decay ? 1 : 0);
  }
  return model;
}

// Roundings in a row: those of every step stay in the parameters.
double chain_length(const ModelConfig& config, const Tensor& ids) {
  const std::int64_t steps = ids.size(0), b = ids.size(1), l = ids.size(2);
  const std::int64_t widths = config.d_model + config.mixer.d_inner + config.mixer.d_state + config.mixer.dt_rank;
  return static_cast<double>(2 * steps * (config.n_layer * (widths + l) + config.padded_vocab_size() + b * l));
}

const Tensor& value_of(const Parameters& parameters, const std::string& name) {
  const auto found =
      std::find_if(parameters.begin(), parameters.end(), [&](const Parameter& p) { return p.name == name; });
  if (found == parameters.end()) {
    refuse_value(ErrorCode::kCorruptFile, "training_trace", "param_order", "names of parameters", name);
  }
  return found->var.value();
}

std::vector<Output> run_trace(Context& ctx, const GoldenCase& golden, const Tensors& in) {
  const Model model = start_of(golden, in);
  const Tensor& ids = required(in, "input_ids");  // (steps,b,l+1)
  const std::int64_t l = ids.size(2) - 1;
  const TrainOptions options = train_options_of(golden.options);
  check_equal("training_trace", "steps of input_ids", options.max_steps, ids.size(0));
  std::vector<double> losses, norms, rates;
  TrainCallbacks callbacks;
  callbacks.on_step = [&](const StepReport& report) {
    losses.push_back(report.loss);
    norms.push_back(report.grad_norm);
    rates.push_back(report.lr);
  };
  const auto batches = [&](std::int64_t i) {
    const Tensor rows = ids.select(0, i);
    return Batch{rows.slice(1, 0, l).contiguous(), rows.slice(1, 1, l + 1).contiguous(), {}};
  };
  Trainer(ctx, model, batches, options, {}, callbacks).run();

  const double terms = chain_length(model.config(), ids);
  const auto of_steps = [&](const std::vector<double>& values) { return Tensor::of({options.max_steps}, values); };
  std::vector<Output> outputs = {{"out/loss", "out/loss", of_steps(losses), terms},
                                 {"out/grad_norm", "out/grad_norm", of_steps(norms), terms},
                                 {"out/lr", "out/lr", of_steps(rates), 4}};
  std::vector<double> final_norms;
  const Parameters parameters = model.parameters();
  for (const std::string& name : golden.options.at("param_order").get<std::vector<std::string>>()) {
    const Tensor& value = value_of(parameters, name);
    final_norms.push_back(std::sqrt(ops::sum_of_squares(ctx, value)));
    outputs.push_back({"out/final/" + name, "out/final/" + name, value, terms});
  }
  outputs.push_back({"out/final_param_norms", "out/final_param_norms",
                     Tensor::of({static_cast<std::int64_t>(final_norms.size())}, final_norms), terms});
  return outputs;
}

}  // namespace

Experiment training_trace_experiment(const GoldenCase& golden) {
  config_of(golden.options.at("config"));  // refuses what is not a Mamba-1 before anything runs
  Experiment experiment;
  experiment.run = [golden](Context& ctx, const Tensors& in) { return run_trace(ctx, golden, in); };
  return experiment;
}

}  // namespace coluber::selftest
