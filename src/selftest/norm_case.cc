// norm (RMS or layer, fused residual) and gated_rms_norm: one op with different options.
#include "coluber/ops.h"
#include "core/check.h"
#include "selftest/experiment.h"

namespace coluber::selftest {
namespace {

NormKind kind_of(const std::string& word) {
  if (word == "rms") return NormKind::kRms;
  if (word == "layer") return NormKind::kLayer;
  refuse(ErrorCode::kUnsupported, "norm", join("kind ", word));
}

std::vector<Output> run(Context& ctx, const GoldenCase& golden, const Tensors& in) {
  ops::NormArgs args;
  args.x = required(in, "x");
  args.weight = optional_tensor(in, "weight");
  args.bias = optional_tensor(in, "bias");
  args.residual = optional_tensor(in, "residual");
  args.z = optional_tensor(in, "z");
  args.kind = kind_of(golden.options.value("kind", "rms"));
  args.eps = golden.options.at("eps").get<double>();
  args.norm_before_gate = golden.flag("norm_before_gate");
  args.group_size = golden.options.value("group_size", std::int64_t{0});
  const double m = static_cast<double>(args.x.size(-1)), rows = static_cast<double>(args.x.numel()) / m;
  Tensor residual_out;
  const Tensor y = ops::norm_forward(ctx, args, &residual_out);
  const ops::NormGrads grads =
      ops::norm_backward(ctx, args, required(in, "cot/out"), optional_tensor(in, "cot/residual_out"));
  std::vector<Output> outputs = {{"out/out", "out/out", y, m + 8},
                                 {"out/residual_out", "out/residual_out", residual_out, 1},
                                 {"grad/x", "grad/x", grads.x, 2 * m + 16}};
  if (args.weight.defined()) outputs.push_back({"grad/weight", "grad/weight", grads.weight, rows + m + 8});
  if (args.bias.defined()) outputs.push_back({"grad/bias", "grad/bias", grads.bias, rows + m + 8});
  if (args.residual.defined()) outputs.push_back({"grad/residual", "grad/residual", grads.x, 2 * m + 16});
  if (args.z.defined()) outputs.push_back({"grad/z", "grad/z", grads.z, 2 * m + 16});
  return outputs;
}

}  // namespace

Experiment norm_experiment(const GoldenCase& golden) {
  check_inputs_known(golden, {"x", "weight", "bias", "residual", "z"});
  Experiment experiment;
  experiment.run = [golden](Context& ctx, const Tensors& in) { return run(ctx, golden, in); };
  return experiment;
}

}  // namespace coluber::selftest
