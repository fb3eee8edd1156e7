// Goldens keep channels before tokens, (b,d,l); ops take (b,l,d), so tensors go in as transposed views.
#include <utility>

#include "coluber/ops.h"
#include "selftest/experiment.h"

namespace coluber::selftest {
namespace {

Tensor swap_tokens(const Tensor& t) {
  return t.defined() ? t.transpose(1, 2) : t;
}

// Where seq_idx changes a new sequence begins: the same thing as cu_seqlens, said by resets.
Tensor resets_of(const Tensor& seq_idx) {
  const Tensor resets = Tensor::zeros(seq_idx.shape(), DType::kU8);
  for (std::int64_t i = 0; i < seq_idx.size(0); ++i) {
    for (std::int64_t t = 1; t < seq_idx.size(1); ++t) {
      resets.set({i, t}, seq_idx.at({i, t}) == seq_idx.at({i, t - 1}) ? 0 : 1);
    }
  }
  return resets;
}

struct Names {
  std::string out, state, final_state;
};

ops::CausalConv1dArgs arguments(const GoldenCase& golden, const Tensors& in, const Names& names) {
  ops::CausalConv1dArgs args;
  args.x = swap_tokens(required(in, "x"));
  args.weight = required(in, "weight");
  args.bias = optional_tensor(in, "bias");
  args.silu = golden.flag("silu");
  args.reverse = golden.flag("reverse");
  args.state_in = optional_tensor(in, names.state);
  args.cu_seqlens = optional_tensor(in, "cu_seqlens");
  args.resets = optional_tensor(in, "resets");
  return args;
}

// Token by token through the step kernel.
void append_steps(Context& ctx, const ops::CausalConv1dArgs& args, const Names& names, std::vector<Output>& outputs) {
  const std::int64_t b = args.x.size(0), l = args.x.size(1), d = args.x.size(2), k = args.weight.size(1);
  const Tensor state =
      args.state_in.defined() ? args.state_in.clone() : Tensor::zeros({b, d, k - 1}, args.x.dtype(), args.x.device());
  const Tensor y = Tensor::empty({b, l, d}, args.x.dtype(), args.x.device());
  for (std::int64_t t = 0; t < l; ++t) {
    ops::CausalConv1dArgs one = args;
    one.x = args.x.slice(1, t, t + 1);
    one.state_in = {};
    y.slice(1, t, t + 1).copy_from(ops::causal_conv1d_step(ctx, one, state));
  }
  outputs.push_back({"step/" + names.out, "out/" + names.out, swap_tokens(y), static_cast<double>(k + 4)});
  if (k > 1) outputs.push_back({"step/" + names.final_state, "out/" + names.final_state, state, 0});
}

std::vector<Output> run(Context& ctx, const GoldenCase& golden, const Names& names, const Tensors& in) {
  const ops::CausalConv1dArgs args = arguments(golden, in, names);
  const double taps = static_cast<double>(args.weight.size(1));
  const double tokens = static_cast<double>(args.x.size(0) * args.x.size(1));
  Tensor state_out;
  const Tensor y = ops::causal_conv1d_forward(ctx, args, &state_out);
  std::vector<Output> outputs = {{"out/" + names.out, "out/" + names.out, swap_tokens(y), taps + 4}};
  if (args.weight.size(1) > 1) {
    outputs.push_back({"out/" + names.final_state, "out/" + names.final_state, state_out, 0});
  }
  const ops::CausalConv1dGrads grads = ops::causal_conv1d_backward(
      ctx, args, swap_tokens(required(in, "cot/" + names.out)), optional_tensor(in, "cot/" + names.final_state));
  outputs.push_back({"grad/x", "grad/x", swap_tokens(grads.x), 2 * taps + 8});
  outputs.push_back({"grad/weight", "grad/weight", grads.weight, tokens + taps});
  if (args.bias.defined()) outputs.push_back({"grad/bias", "grad/bias", grads.bias, tokens + taps});
  if (args.state_in.defined()) {
    outputs.push_back({"grad/" + names.state, "grad/" + names.state, grads.state_in, 2 * taps + 8});
  }
  const bool plain = !args.reverse && !args.cu_seqlens.defined() && !args.resets.defined();
  if (plain) append_steps(ctx, args, names, outputs);
  if (in.count("seq_idx") != 0) {
    ops::CausalConv1dArgs reset = args;
    reset.cu_seqlens = {};
    reset.resets = resets_of(required(in, "seq_idx"));
    outputs.push_back(
        {"resets/" + names.out, "out/" + names.out, swap_tokens(ops::causal_conv1d_forward(ctx, reset)), taps + 4});
  }
  return outputs;
}

}  // namespace

Experiment causal_conv1d_experiment(const GoldenCase& golden) {
  check_inputs_known(golden, {"x", "weight", "bias", "initial_state", "state", "seq_idx", "cu_seqlens", "resets"});
  Names names{"out", "initial_state", golden.flag("packed") ? "varlen_states" : "final_state"};
  if (golden.has("out/y")) names = {"y", "state", "state"};
  Experiment experiment;
  experiment.run = [golden, names](Context& ctx, const Tensors& in) { return run(ctx, golden, names, in); };
  return experiment;
}

}  // namespace coluber::selftest
