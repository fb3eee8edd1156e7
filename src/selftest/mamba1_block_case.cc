// The Mamba-1 mixer: forward and gradients through the tape, decoding through step.
#include <algorithm>

#include "coluber/modules.h"
#include "core/check.h"
#include "selftest/experiment.h"

namespace coluber::selftest {
namespace {

MambaConfig config_of(const Json& options) {
  MambaConfig config;
  config.d_model = options.at("d_model").get<std::int64_t>();
  config.d_state = options.at("d_state").get<std::int64_t>();
  config.d_conv = options.at("d_conv").get<std::int64_t>();
  config.expand = options.at("expand").get<double>();
  config.d_inner = options.at("d_inner").get<std::int64_t>();
  config.dt_rank = options.at("dt_rank").get<std::int64_t>();
  config.conv_bias = options.at("conv_bias").get<bool>();
  config.bias = options.at("bias").get<bool>();
  config.resolve();
  return config;
}

// The golden conv state has the last d_conv inputs after the token, newest last. Ours has the d_conv - 1 before the
// token that comes next, so the golden one is the oldest of ours before the step, then all of ours after it.
Tensor conv_window(const Tensor& before, const Tensor& after) {
  const std::int64_t b = after.size(0), d = after.size(1), k = after.size(2) + 1;
  const Tensor window = Tensor::empty({b, d, k}, after.dtype(), after.device());
  window.slice(2, 0, 1).copy_from(before.slice(2, 0, 1));
  window.slice(2, 1, k).copy_from(after);
  return window;
}

void append_steps(Context& ctx, const Mamba& mixer, const Tensor& x, std::int64_t steps, double terms,
                  std::vector<Output>& outputs) {
  const MambaConfig& config = mixer.config();
  const std::int64_t b = x.size(0);
  const LayerState state = mixer.make_state(b, x.dtype());
  const Tensor out = Tensor::empty({b, steps, config.d_model}, x.dtype(), x.device());
  const Tensor conv = Tensor::zeros({b, steps, config.d_inner, config.d_conv}, x.dtype(), x.device());
  const Tensor ssm = Tensor::empty({b, steps, config.d_inner, config.d_state}, x.dtype(), x.device());
  for (std::int64_t t = 0; t < steps; ++t) {
    const Tensor before = state.conv.clone();
    out.slice(1, t, t + 1).copy_from(mixer.step(ctx, x.slice(1, t, t + 1).contiguous(), state));
    if (config.d_conv > 1) conv.select(1, t).copy_from(conv_window(before, state.conv));
    ssm.select(1, t).copy_from(state.ssm);
  }
  outputs.push_back({"step/out", "out/step_out", out, terms});
  if (config.d_conv > 1) outputs.push_back({"step/conv_state", "out/step_conv_state", conv, terms});
  outputs.push_back({"step/ssm_state", "out/step_ssm_state", ssm, terms});
}

std::vector<Output> run(Context& ctx, const GoldenCase& golden, const Tensors& in) {
  const MambaConfig config = config_of(golden.options);
  const Mamba mixer(config, Init{0, float_dtype(in), true}, "");
  Parameters parameters;
  mixer.append_parameters(parameters);
  for (const Parameter& parameter : parameters) {
    const Tensor& value = required(in, parameter.name);
    check_equal("mamba1_block", parameter.name, parameter.var.value().numel(), value.numel());
    parameter.var.set_value(value.contiguous().reshape(parameter.var.value().shape()));
  }
  const Var x(required(in, "x"), true);
  Tape tape;
  Graph graph{ctx, &tape};
  const Var y = mixer.forward(graph, x);
  const std::int64_t b = x.value().size(0), l = x.value().size(1);
  const std::int64_t widths = config.d_model + config.d_inner + config.d_state + config.dt_rank + config.d_conv;
  const double forward = static_cast<double>(l + widths), backward = static_cast<double>(2 * (l + widths) + b * l);
  std::vector<Output> outputs = {{"out/out", "out/out", y.value(), forward}};
  tape.backward(ctx, y, required(in, "cot/out"));
  outputs.push_back({"grad/x", "grad/x", x.grad(), backward});
  for (const Parameter& parameter : parameters) {
    outputs.push_back({"grad/" + parameter.name, "grad/" + parameter.name, parameter.var.grad(), backward});
  }
  const std::int64_t steps = golden.options.value("decode_steps", std::int64_t{0});
  append_steps(ctx, mixer, x.value(), steps > 0 ? steps : l, forward, outputs);
  outputs.push_back({"step/out == out", "out/out", outputs[outputs.size() - 3].value, forward});
  return outputs;
}

}  // namespace

Experiment mamba1_block_experiment(const GoldenCase& golden) {
  check_inputs_known(golden, {"x", "in_proj.weight", "in_proj.bias", "conv1d.weight", "conv1d.bias", "x_proj.weight",
                              "dt_proj.weight", "dt_proj.bias", "A_log", "D", "out_proj.weight", "out_proj.bias"});
  Experiment experiment;
  experiment.run = [golden](Context& ctx, const Tensors& in) { return run(ctx, golden, in); };
  return experiment;
}

}  // namespace coluber::selftest
