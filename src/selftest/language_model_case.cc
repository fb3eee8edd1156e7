// Whole models: from the published files to logits, loss, every gradient and a greedy continuation.
#include <filesystem>
#include <memory>

#include "coluber/model.h"
#include "core/check.h"
#include "models/weight_names.h"
#include "selftest/experiment.h"

namespace coluber::selftest {
namespace {

constexpr const char* kParameter = "parameter/";  // prefix of the checkpoint's tensors among the inputs

std::string checkpoint_path(const GoldenCase& golden) {
  const std::string name = golden.options.at("checkpoint").get<std::string>();  // "checkpoints/ss_mamba1"
  for (const std::string& base : {golden.folder + "/../", golden.folder + "/"}) {
    if (std::filesystem::is_directory(base + name)) return base + name;
  }
  refuse_value(ErrorCode::kNotFound, "language_model", "checkpoint", join(name, " beside the goldens"),
               "no such folder");
}

// What the case says of itself, before any file is opened.
void check_supported(const Json& options) {
  if (options.contains("config_class")) {
    const std::string name = options.at("config_class").get<std::string>();
    if (name != "MambaConfig" && name != "FalconMambaConfig") {
      refuse(ErrorCode::kUnsupported, "language_model", join("model type ", name, " is not there yet"));
    }
  }
  if (!options.contains("config")) return;
  const Json& config = options.at("config");
  const std::string layer = config.at("ssm_cfg").value("layer", "Mamba1");
  if (layer != "Mamba1") refuse(ErrorCode::kUnsupported, "language_model", join("layer ", layer, " is not there yet"));
  if (!config.at("attn_layer_idx").empty())
    refuse(ErrorCode::kUnsupported, "language_model", "attention layers are not there yet");
  if (config.value("d_intermediate", 0) != 0)
    refuse(ErrorCode::kUnsupported, "language_model", "MLP layers are not there yet");
}

void set_parameters(const Model& model, const Tensors& in) {
  for (const Parameter& parameter : model.parameters())
    parameter.var.set_value(required(in, kParameter + parameter.name));
}

std::int32_t argmax(const Tensor& logits) {  // (v)
  std::int64_t best = 0;
  for (std::int64_t i = 1; i < logits.size(0); ++i) {
    if (logits.at({i}) > logits.at({best})) best = i;
  }
  return static_cast<std::int32_t>(best);
}

// Prompt through forward, then one token at a time through step; all rows together.
Tensor greedy(Context& ctx, const Model& model, const Tensor& ids, std::int64_t prompt, std::int64_t new_tokens) {
  const std::int64_t b = ids.size(0);
  const Tensor all = Tensor::zeros({b, prompt + new_tokens}, DType::kI32);
  all.slice(1, 0, prompt).copy_from(ids.slice(1, 0, prompt));
  State state = model.make_state(b);
  ForwardOptions options;
  options.state = &state;
  options.last_token_only = true;
  Tensor logits = model.forward(ctx, ids.slice(1, 0, prompt).contiguous(), options).select(1, 0);
  for (std::int64_t t = prompt; t < prompt + new_tokens; ++t) {
    const Tensor next = Tensor::empty({b}, DType::kI32);
    for (std::int64_t i = 0; i < b; ++i) next.data<std::int32_t>()[i] = argmax(logits.select(0, i));
    all.select(1, t).copy_from(next);
    if (t + 1 < prompt + new_tokens) logits = model.step(ctx, next, state);
  }
  return all;
}

// Grows with every layer, the width of its sums and the tokens it reads.
double chain_length(const ModelConfig& config, std::int64_t b, std::int64_t l) {
  const std::int64_t widths = config.d_model + config.mixer.d_inner + config.mixer.d_state + config.mixer.dt_rank;
  return static_cast<double>(config.n_layer * (widths + l) + config.padded_vocab_size() + b * l);
}

// The name that the golden file uses for the gradient of a parameter of ours.
std::string gradient_name(const GoldenCase& golden, const std::string& parameter) {
  for (const CheckpointLayout layout : {CheckpointLayout::kStateSpaces, CheckpointLayout::kHfMamba}) {
    const std::string name = "grad/" + file_tensor_name(layout, parameter);
    if (golden.has(name)) return name;
  }
  return "grad/" + parameter;
}

std::vector<Output> run(Context& ctx, const GoldenCase& golden, const Model& model, const Tensors& in) {
  for (const Parameter& parameter : model.parameters()) parameter.var.set_grad({});
  const Tensor& ids = required(in, "input_ids");
  const std::int64_t b = ids.size(0), l = ids.size(1);
  const double forward = chain_length(model.config(), b, l), backward = 2 * forward;
  std::vector<Output> outputs = {{"out/logits", "out/logits", model.forward(ctx, ids), forward}};
  Tape tape;
  Graph graph{ctx, &tape};
  const Var loss = model.loss(graph, ids.slice(1, 0, l - 1).contiguous(), ids.slice(1, 1, l).contiguous());
  outputs.push_back({"out/loss", "out/loss", loss.value().clone(), forward});
  tape.backward(ctx, loss);
  for (const Parameter& parameter : model.parameters()) {
    outputs.push_back(
        {"grad/" + parameter.name, gradient_name(golden, parameter.name), parameter.var.grad(), backward});
  }
  if (golden.has("out/generated")) {
    const std::int64_t prompt = golden.options.at("generate_prompt_tokens").get<std::int64_t>();
    const std::int64_t fresh = golden.options.at("generate_new_tokens").get<std::int64_t>();
    outputs.push_back({"out/generated", "out/generated", greedy(ctx, model, ids, prompt, fresh), 0});
  }
  return outputs;
}

}  // namespace

Experiment language_model_experiment(const GoldenCase& golden) {
  check_supported(golden.options);
  check_inputs_known(golden, {"input_ids"});
  LoadOptions wide, narrow;
  wide.dtype = DType::kF64;
  narrow.dtype = DType::kF32;
  const std::string path = checkpoint_path(golden);
  const auto model64 = std::make_shared<Model>(Model::load(path, wide));
  const auto model32 = std::make_shared<Model>(Model::load(path, narrow));
  Experiment experiment;
  for (const Parameter& parameter : model64->parameters()) {
    experiment.more_inputs.emplace(kParameter + parameter.name, parameter.var.value());
  }
  experiment.ignored = {"out/logits_float32_library"};  // a yardstick of float32, not an expectation
  experiment.run = [golden, model64, model32](Context& ctx, const Tensors& in) {
    if (float_dtype(in) == DType::kF32) {  // as a user loads it
      const Device device = device_of(in);
      return run(ctx, golden, device.is_cpu() ? *model32 : model32->to(device), in);
    }
    set_parameters(*model64, in);  // measure.cc moves them to learn the condition
    return run(ctx, golden, *model64, in);
  };
  return experiment;
}

}  // namespace coluber::selftest
