// Whole models from published layouts against numbers of their authors' code: logits, loss, every gradient, greedy
// continuation.
#include "coluber/model.h"
#include "models/weight_names.h"
#include "tests/models/models.h"
#include "tests/support/condition.h"
#include "tests/support/golden_file.h"

namespace coluber::testing {
namespace {

struct LmCase {
  const char *file, *name;
};
void PrintTo(const LmCase& c, std::ostream* out) {
  *out << c.name;
}

class LmGolden : public ::testing::TestWithParam<LmCase> {
 protected:
  LmGolden() {
    for (GoldenCase& golden : golden_cases(GetParam().file)) {
      if (golden.name == GetParam().name) golden_ = std::move(golden);
    }
    ids_ = golden_.tensors.at("input_ids");
  }

  Model load(DType dtype) const {
    LoadOptions options;
    options.dtype = dtype;
    return Model::load(checkpoint_path(GetParam().name), options);
  }

  NamedTensors parameters_of(const Model& model) const {
    NamedTensors values;
    for (const Parameter& parameter : model.parameters()) values[parameter.name] = parameter.var.value();
    return values;
  }

  // Logits, loss and gradients by golden name, for these values of the parameters.
  NamedTensors run(Algorithm algorithm, const Model& model, const NamedTensors& values) const {
    Context ctx(ContextOptions{2, algorithm});
    for (const Parameter& parameter : model.parameters()) {
      parameter.var.set_value(values.at(parameter.name));
      parameter.var.set_grad({});
    }
    NamedTensors out;
    out["out/logits"] = model.forward(ctx, ids_);
    const std::int64_t l = ids_.size(1);
    Tape tape;
    Graph graph{ctx, &tape};
    const Var loss = model.loss(graph, ids_.slice(1, 0, l - 1).contiguous(), ids_.slice(1, 1, l).contiguous());
    out["out/loss"] = loss.value().clone();
    tape.backward(ctx, loss);
    for (const Parameter& parameter : model.parameters()) {
      const std::string name = "grad/" + file_tensor_name(model.config().layout, parameter.name);
      out[golden_.has(name) ? name : "grad/" + parameter.name] = parameter.var.grad();
    }
    return out;
  }

  template <class Bound>
  double expect_golden(const NamedTensors& got, Bound&& bound) const {
    double worst = 0;
    int compared = 0;
    for (const auto& [name, tensor] : got) {
      const auto stored = golden_.tensors.find(name);
      if (stored == golden_.tensors.end()) {
        ADD_FAILURE() << "the file has no " << name;
        continue;
      }
      const Tensor expected = golden_.get(name, DType::kF64).contiguous().reshape(tensor.shape());
      const double allowed = bound(name) + (stored->second.dtype() == DType::kF32 ? kUnitF32 : 0);
      const double error = max_error(tensor, expected);
      EXPECT_LE(error, allowed) << name;
      worst = std::max(worst, error / allowed);
      ++compared;
    }
    int expected = 0;
    for (const auto& [name, tensor] : golden_.tensors) {
      expected += name.starts_with("grad/") || name == "out/logits" || name == "out/loss" ? 1 : 0;
    }
    EXPECT_EQ(compared, expected);
    return worst;
  }

  // All rows at once: the prompt through forward, then one token at a time through step.
  Tensor greedy(const Model& model) const {
    Context ctx(ContextOptions{2, Algorithm::kAuto});
    const std::int64_t prompt = golden_.options.at("generate_prompt_tokens");
    const std::int64_t total = prompt + golden_.options.at("generate_new_tokens").get<std::int64_t>();
    const std::int64_t b = ids_.size(0);
    const Tensor all = Tensor::zeros({b, total}, DType::kI32);
    all.slice(1, 0, prompt).copy_from(ids_.slice(1, 0, prompt));
    State state = model.make_state(b);
    ForwardOptions options;
    options.state = &state;
    options.last_token_only = true;
    Tensor logits = model.forward(ctx, ids_.slice(1, 0, prompt).contiguous(), options).select(1, 0);
    for (std::int64_t t = prompt; t < total; ++t) {
      const Tensor next = Tensor::empty({b}, DType::kI32);
      for (std::int64_t row = 0; row < b; ++row) {
        std::int64_t best = 0;
        for (std::int64_t i = 1; i < logits.size(1); ++i)
          if (logits.at({row, i}) > logits.at({row, best})) best = i;
        next.set({row}, static_cast<double>(best));
      }
      all.select(1, t).copy_from(next);
      logits = model.step(ctx, next, state);
    }
    return all;
  }

  GoldenCase golden_;
  Tensor ids_;
};

TEST_P(LmGolden, Float64) {
  const Model model = load(DType::kF64);
  expect_golden(run(Algorithm::kAuto, model, parameters_of(model)), [](auto&) { return 1e-12; });
}

// The chain behind one logit grows with every layer, the width of its sums and the tokens it reads; a gradient has it
// twice.
TEST_P(LmGolden, Float32) {
  const Model wide = load(DType::kF64), model = load(DType::kF32);
  const auto condition = conditions(
      parameters_of(wide), [&](const NamedTensors& values) { return run(Algorithm::kReference, wide, values); });
  const ModelConfig& config = model.config();
  const double chain =
      static_cast<double>(config.n_layer * (config.d_model + config.mixer.d_inner + config.mixer.d_state +
                                            config.mixer.dt_rank + ids_.size(1)) +
                          config.padded_vocab_size() + ids_.numel());
  double worst = 0;
  for (const Algorithm algorithm : {Algorithm::kReference, Algorithm::kCpu}) {
    worst =
        std::max(worst, expect_golden(run(algorithm, model, parameters_of(model)), [&](const std::string& name) {
                   return rounding_bound(kUnitF32, name.starts_with("grad/") ? 2 * chain : chain, condition.at(name));
                 }));
  }
  RecordProperty("worst_share_of_bound", std::to_string(worst));
}

TEST_P(LmGolden, GreedyTokens) {
  EXPECT_TRUE(same_bits(greedy(load(DType::kF32)), golden_.tensors.at("out/generated")));
  EXPECT_TRUE(same_bits(greedy(load(DType::kF64)), golden_.tensors.at("out/generated")));
}

constexpr const char* kStateSpacesFile = "lm_state_spaces.safetensors";
constexpr const char* kTransformersFile = "lm_transformers.safetensors";
INSTANTIATE_TEST_SUITE_P(Checkpoints, LmGolden,
                         ::testing::Values(LmCase{kStateSpacesFile, "ss_mamba1"},
                                           LmCase{kStateSpacesFile, "ss_mamba1_layernorm_untied"},
                                           LmCase{kTransformersFile, "hf_mamba"},
                                           LmCase{kTransformersFile, "hf_mamba_sharded"},
                                           LmCase{kTransformersFile, "hf_falcon_mamba"}),
                         [](const auto& row) { return std::string(row.param.name); });

TEST(LmGolden, ANewerTorchWroteTheSameModel) {
  const Model a = Model::load(checkpoint_path("ss_mamba1")), b = Model::load(checkpoint_path("ss_mamba1_torch2"));
  EXPECT_EQ(a.config(), b.config());
  expect_same_parameters(a, b);
}

}  // namespace
}  // namespace coluber::testing
