// The Mamba mixer against numbers of other people's code: forward, gradients, and decoding with its states.
#include "tests/modules/modules.h"
#include "tests/support/condition.h"
#include "tests/support/golden_file.h"

namespace coluber::testing {
namespace {

MambaConfig config_of(const GoldenCase& golden) {
  MambaConfig config;
  config.d_model = golden.options.at("d_model");
  config.d_state = golden.options.at("d_state");
  config.d_conv = golden.options.at("d_conv");
  config.expand = golden.options.at("expand");
  config.dt_rank = golden.options.at("dt_rank");
  config.conv_bias = golden.options.at("conv_bias");
  config.bias = golden.options.at("bias");
  return config;
}

// The golden keeps the last d_conv inputs; ours are the d_conv - 1 that the next token needs.
Tensor golden_conv_state(const Tensor& t) {
  return t.slice(3, 1, t.size(3));
}

// Results by golden name, from inputs by golden name.
NamedTensors run(Algorithm algorithm, const GoldenCase& golden, const NamedTensors& in) {
  Context ctx(ContextOptions{2, algorithm});
  const DType dtype = in.at("x").dtype();
  const Mamba mixer(config_of(golden), Init{0, dtype}, "");
  const Parameters parameters = parameters_of(mixer);
  for (const Parameter& parameter : parameters) {
    parameter.var.set_value(in.at(parameter.name).reshape(parameter.var.value().shape()));
  }
  NamedTensors out;
  const Var x(in.at("x"), true);
  Tape tape;
  Graph graph{ctx, &tape};
  const Var y = mixer.forward(graph, x);
  out["out/out"] = y.value();
  tape.backward(ctx, y, in.at("cot/out"));
  out["grad/x"] = x.grad();
  for (const Parameter& parameter : parameters) out["grad/" + parameter.name] = parameter.var.grad();
  const std::int64_t steps = golden.options.at("decode_steps");
  if (steps == 0) return out;
  std::vector<LayerState> states;
  const LayerState state = mixer.make_state(x.value().size(0), dtype);
  const MambaConfig& config = mixer.config();
  const std::int64_t b = x.value().size(0);
  const Tensor step_out = Tensor::empty({b, steps, config.d_model}, dtype);
  const Tensor conv = Tensor::empty({b, steps, config.d_inner, config.d_conv - 1}, dtype);
  const Tensor ssm = Tensor::empty({b, steps, config.d_inner, config.d_state}, dtype);
  for (std::int64_t t = 0; t < steps; ++t) {
    step_out.slice(1, t, t + 1).copy_from(mixer.step(ctx, x.value().slice(1, t, t + 1).contiguous(), state));
    conv.select(1, t).copy_from(state.conv);
    ssm.select(1, t).copy_from(state.ssm);
  }
  out["out/step_out"] = step_out;
  out["out/step_conv_state"] = conv;
  out["out/step_ssm_state"] = ssm;
  return out;
}

NamedTensors inputs(const GoldenCase& golden, DType dtype) {
  NamedTensors in;
  for (const auto& [name, tensor] : golden.tensors) {
    if (!name.starts_with("out/") && !name.starts_with("grad/")) in[name] = golden.get(name, dtype).contiguous();
  }
  return in;
}

// Every expected tensor of the case against `got`; bound(name) beside 2^-24 where the file itself is f32.
template <class Bound>
double expect_golden(const GoldenCase& golden, const NamedTensors& got, Bound&& bound) {
  double worst = 0;
  for (const auto& [name, stored] : golden.tensors) {
    if (!name.starts_with("out/") && !name.starts_with("grad/")) continue;
    if (got.count(name) == 0) {
      ADD_FAILURE() << golden.name << ": nothing to compare with " << name;
      continue;
    }
    Tensor expected = golden.get(name, DType::kF64);
    if (name == "out/step_conv_state") expected = golden_conv_state(expected);
    const Tensor& result = got.at(name);
    const double allowed = bound(name) + (stored.dtype() == DType::kF32 ? kUnitF32 : 0);
    const double error = max_error(result, expected.contiguous().reshape(result.shape()));
    EXPECT_LE(error, allowed) << golden.name << " " << name;
    worst = std::max(worst, error / allowed);
  }
  return worst;
}

TEST(MambaGolden, Float64) {
  const std::vector<GoldenCase> cases = golden_cases("mamba1_block.safetensors");
  EXPECT_EQ(cases.size(), 5u);
  for (const GoldenCase& golden : cases) {
    expect_golden(golden, run(Algorithm::kAuto, golden, inputs(golden, DType::kF64)), [](auto&) { return 1e-12; });
  }
}

TEST(MambaGolden, Float32) {
  double worst = 0;
  for (const GoldenCase& golden : golden_cases("mamba1_block.safetensors")) {
    const auto condition = conditions(inputs(golden, DType::kF64),
                                      [&](const NamedTensors& in) { return run(Algorithm::kAuto, golden, in); });
    MambaConfig config = config_of(golden);
    config.resolve();
    const Tensor& x = golden.tensors.at("x");
    // The chain behind one element: the sums of the projections and of the states, and the scan over time; a gradient
    // has it twice and sums over all tokens.
    const double chain = static_cast<double>(x.size(1) + config.d_model + config.d_inner + config.d_state +
                                             config.dt_rank + config.d_conv);
    const double tokens = static_cast<double>(x.size(0) * x.size(1));
    for (const Algorithm algorithm : {Algorithm::kReference, Algorithm::kCpu}) {
      const double share =
          expect_golden(golden, run(algorithm, golden, inputs(golden, DType::kF32)), [&](const std::string& name) {
            return rounding_bound(kUnitF32, name.starts_with("grad/") ? 2 * chain + tokens : chain, condition.at(name));
          });
      worst = std::max(worst, share);
    }
  }
  RecordProperty("worst_share_of_bound", std::to_string(worst));
}

}  // namespace
}  // namespace coluber::testing
