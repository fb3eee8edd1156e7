// Thirty steps against an independent implementation in f64: tests/goldens/data/training_trace.safetensors, case
// mamba1.
#include <nlohmann/json.hpp>

#include "io/safetensors.h"
#include "tests/train/training.h"

namespace coluber {
namespace {

TEST(Golden, TrainingTraceOfMamba1) {
  const SafetensorsFile file =
      SafetensorsFile::open(std::string(COLUBER_SOURCE_DIR) + "/tests/goldens/data/training_trace.safetensors");
  const nlohmann::json golden = nlohmann::json::parse(file.metadata().at("case/mamba1"));
  const auto tensor = [&](const std::string& name) { return file.tensors().at("mamba1/" + name); };
  ModelConfig config;
  config.d_model = golden["config"]["d_model"];
  config.n_layer = golden["config"]["n_layer"];
  config.vocab_size = golden["config"]["vocab_size"];
  config.mixer.d_state = golden["config"]["ssm_cfg"]["d_state"];
  const Model model = Model::create(config, 0, DType::kF64);
  for (const Parameter& parameter : model.parameters()) {
    const Tensor& value = parameter.var.value();
    value.copy_from(tensor("init/" + parameter.name).contiguous().reshape(value.shape()));
  }
  const Tensor ids = tensor("input_ids").contiguous();  // (steps,b,l+1)
  const std::int64_t l = ids.size(2) - 1;
  TrainOptions options;
  options.max_steps = golden["steps"];
  options.schedule.lr = golden["lr_max"];
  options.schedule.lr_min = golden["lr_min"];
  options.schedule.warmup_steps = golden["warmup_steps"];
  options.adamw.clip = golden["clip"];
  options.adamw.weight_decay = golden["weight_decay"];
  options.adamw.beta1 = golden["betas"][0];
  options.adamw.beta2 = golden["betas"][1];
  options.adamw.eps = golden["eps"];
  std::vector<StepReport> reports;
  TrainCallbacks callbacks;
  callbacks.on_step = [&](const StepReport& report) { reports.push_back(report); };
  Context ctx({.num_threads = 2});
  const auto batches = [&](std::int64_t i) {
    const Tensor rows = ids.select(0, i);
    return Batch{rows.slice(1, 0, l).contiguous(), rows.slice(1, 1, l + 1).contiguous(), {}};
  };
  Trainer trainer(ctx, model, batches, options, {}, callbacks);
  trainer.run();
  ASSERT_EQ(reports.size(), 30u);
  for (std::size_t i = 0; i < 30; ++i) {
    const auto at = [&](const std::string& name) { return tensor("out/" + name).at({static_cast<std::int64_t>(i)}); };
    // f64 throughout; 30 steps amplify a rounding of 1e-16 by less than 1e4 (the selftest measures that factor).
    EXPECT_NEAR(reports[i].loss, at("loss"), 1e-10 * at("loss")) << i;
    EXPECT_NEAR(reports[i].grad_norm, at("grad_norm"), 1e-8 * at("grad_norm")) << i;
    EXPECT_NEAR(reports[i].lr, at("lr"), 1e-15) << i;
  }
  for (const Parameter& parameter : model.parameters()) {
    const Tensor expected = tensor("out/final/" + parameter.name).contiguous();  // stored as f32
    const Tensor flat = parameter.var.value().reshape({expected.numel()});
    const Tensor wanted = expected.reshape({expected.numel()});
    double worst = 0;
    for (std::int64_t i = 0; i < flat.numel(); ++i) worst = std::max(worst, std::abs(flat.at({i}) - wanted.at({i})));
    EXPECT_LT(worst, 4e-7) << parameter.name;
  }
}

}  // namespace
}  // namespace coluber
