#include "ops/work.h"

#include <initializer_list>
#include <unordered_set>

#include "ops/op_check.h"

namespace coluber::ops {
namespace {

double bytes_of(std::initializer_list<const Tensor*> tensors) {
  double bytes = 0;
  for (const Tensor* t : tensors) bytes += static_cast<double>(t->size_bytes());
  return bytes;
}

double elements_of(const Tensor& t) {
  return static_cast<double>(t.numel());
}

// Per token, channel and state: the decay, h = decay h + dt B u and y += C h; a complex one takes four real products
// for each of them, two for B u.
struct StateWork {
  double exponentials, multiply_adds;
};
StateWork state_work(const SelectiveScanArgs& args) {
  return args.A.rank() == 3 ? StateWork{3, 8} : StateWork{1, 3};
}

double states_of(const SelectiveScanArgs& args) {
  return elements_of(args.u) * static_cast<double>(args.A.size(1));
}

double special_functions_of_channel(const SelectiveScanArgs& args) {
  return (args.dt_softplus ? 2 : 0) + (args.z.defined() ? 2 : 0);
}

Work scan_work(const SelectiveScanArgs& args) {
  const StateWork each = state_work(args);
  Work work;
  work.bytes = bytes_of({&args.u, &args.dt, &args.z, &args.A, &args.B, &args.C, &args.D, &args.dt_bias, &args.state_in,
                         &args.u});  // the last for y
  work.exponentials = states_of(args) * each.exponentials + elements_of(args.u) * special_functions_of_channel(args);
  work.flop = 2 * states_of(args) * each.multiply_adds;
  return work;
}

Work conv_work(const CausalConv1dArgs& args, double rows, double passes) {
  Work work;
  work.bytes = rows * bytes_of({&args.x}) + bytes_of({&args.weight, &args.bias});
  work.exponentials = args.silu ? 2 * elements_of(args.x) : 0;
  work.flop = 2 * passes * elements_of(args.x) * static_cast<double>(args.weight.size(1));
  return work;
}

double gate_exponentials(const NormArgs& args) {
  return 2 * elements_of(args.z);
}

// Tokens, inputs and outputs of a product.
double product_size(const Tensor& x, const Tensor& weight) {
  return elements_of(x) * static_cast<double>(weight.size(0));
}

double distinct(const Tensor& ids) {
  const std::int32_t* begin = ids.data<std::int32_t>();
  return static_cast<double>(std::unordered_set<std::int32_t>(begin, begin + ids.numel()).size());
}

}  // namespace

Work selective_scan_forward_work(const SelectiveScanArgs& args, const SelectiveScanSaved& saved) {
  Work work = scan_work(args);
  work.bytes += bytes_of({&saved.checkpoints});
  return work;
}

// Beyond forward's: the gradient of h goes back (2), and on to u, dt, A, B and C (5); the gradient of z sees y (1).
Work selective_scan_backward_work(const SelectiveScanArgs& args, const SelectiveScanSaved& saved) {
  Work work = scan_work(args);
  work.bytes += bytes_of({&saved.checkpoints, &args.u, &args.dt, &args.z, &args.A, &args.B, &args.C, &args.D,
                          &args.dt_bias, &args.state_in});
  work.exponentials += args.dt_softplus ? elements_of(args.u) : 0;
  work.flop += 2 * states_of(args) * 8 * (args.A.rank() == 3 ? 4 : 1);
  return work;
}

Work selective_scan_step_work(const SelectiveScanArgs& args, const Tensor& state) {
  Work work = scan_work(args);
  work.bytes += 2 * bytes_of({&state});
  return work;
}

Work causal_conv1d_forward_work(const CausalConv1dArgs& args) {
  return conv_work(args, 2, 1);
}
Work causal_conv1d_backward_work(const CausalConv1dArgs& args) {
  Work work = conv_work(args, 3, 3);
  work.bytes += bytes_of({&args.weight, &args.bias});
  return work;
}
Work causal_conv1d_step_work(const CausalConv1dArgs& args, const Tensor& state) {
  Work work = conv_work(args, 2, 1);
  work.bytes += 2 * bytes_of({&state});
  return work;
}

Work norm_forward_work(const NormArgs& args, bool residual_out) {
  const DType stream = parameter_dtype(args.x);  // of the residual stream
  const auto each =
      static_cast<double>(dtype_size(args.out.value_or(args.x.dtype())) + (residual_out ? dtype_size(stream) : 0));
  Work work;
  work.bytes = bytes_of({&args.x, &args.residual, &args.z, &args.weight, &args.bias}) + each * elements_of(args.x);
  work.exponentials = gate_exponentials(args);
  work.flop = 4 * elements_of(args.x);  // square, sum, scale, weight
  return work;
}

Work norm_backward_work(const NormArgs& args, bool grad_residual_out) {
  const auto grad_y = static_cast<double>(dtype_size(args.out.value_or(args.x.dtype())));
  const double grad_sum = grad_residual_out ? static_cast<double>(dtype_size(parameter_dtype(args.x))) : 0;
  const double narrow = args.out.value_or(args.x.dtype()) != args.x.dtype() ? grad_y : 0;  // NormGrads::x_narrow
  Work work;
  work.bytes =
      2 * bytes_of({&args.x, &args.z, &args.weight, &args.bias}) + (grad_y + grad_sum + narrow) * elements_of(args.x);
  work.exponentials = gate_exponentials(args);
  work.flop = 12 * elements_of(args.x);
  return work;
}

Work linear_forward_work(const LinearArgs& args) {
  const auto outputs = product_size(args.x, args.weight) / static_cast<double>(args.x.size(-1));
  Work work;
  work.bytes = bytes_of({&args.x, &args.weight, &args.bias}) +
               outputs * static_cast<double>(dtype_size(args.out.value_or(args.x.dtype())));
  work.products = 2 * product_size(args.x, args.weight);
  return work;
}

Work linear_backward_work(const LinearArgs& args) {
  const auto outputs = product_size(args.x, args.weight) / static_cast<double>(args.x.size(-1));
  Work work;
  work.bytes = 2 * bytes_of({&args.x}) + bytes_of({&args.weight}) +
               outputs * static_cast<double>(dtype_size(args.x.dtype())) +
               elements_of(args.weight) * static_cast<double>(dtype_size(parameter_dtype(args.x)));
  work.products = 4 * product_size(args.x, args.weight);
  return work;
}

Work linear_cross_entropy_work(const LinearCrossEntropyArgs& args, bool want_grad) {
  Work work;
  work.bytes = bytes_of({&args.x, &args.weight, &args.targets});
  if (want_grad) {
    work.bytes +=
        bytes_of({&args.x}) + elements_of(args.weight) * static_cast<double>(dtype_size(parameter_dtype(args.x)));
  }
  work.products = (want_grad ? 6 : 2) * product_size(args.x, args.weight);
  work.exponentials = product_size(args.x, args.weight) / static_cast<double>(args.x.size(-1));
  return work;
}

Work cross_entropy_work(const Tensor& logits, bool want_grad) {
  return elementwise_work(logits, want_grad ? 2 : 1, 1);
}

Work embedding_forward_work(const Tensor& ids, const Tensor& table, DType out) {
  const auto m = static_cast<double>(table.size(1));
  Work work;
  work.bytes = bytes_of({&ids}) + distinct(ids) * m * static_cast<double>(dtype_size(table.dtype())) +
               elements_of(ids) * m * static_cast<double>(dtype_size(out));
  return work;
}

Work embedding_backward_work(const Tensor& ids, const Tensor& grad_y, const Tensor& grad_table) {
  Work work;
  work.bytes = bytes_of({&ids, &grad_y}) +
               2 * distinct(ids) * static_cast<double>(grad_table.size(1) * dtype_size(grad_table.dtype()));
  work.flop = elements_of(grad_y);
  return work;
}

Work elementwise_work(const Tensor& x, double tensors, double exponentials) {
  Work work;
  work.bytes = tensors * bytes_of({&x});
  work.exponentials = exponentials * elements_of(x);
  return work;
}

// Read: parameter, gradient, two moments; written: all but the gradient. In f32, about 14 operations each.
Work adamw_work(std::int64_t parameters) {
  Work work;
  work.bytes = 7.0 * 4 * static_cast<double>(parameters);
  work.exponentials = 2 * static_cast<double>(parameters);  // a square root and a reciprocal
  work.flop = 14 * static_cast<double>(parameters);
  return work;
}

}  // namespace coluber::ops
