// The differentiable twins of the ops. Each function runs the forward half, and when a tape is attached and an input
// wants a gradient, records the backward half with exactly what it needs.
#include <numeric>
#include <utility>

#include "coluber/autograd.h"
#include "core/check.h"
#include "ops/linear.h"

namespace coluber::autograd {
namespace {

// Outputs for each input of a product that is made again rather than kept: that of dt, 2/16 d_model inputs for 2
// d_model outputs, takes a GPU as long as writing its output does.
constexpr std::int64_t kLightProduct = 8;

// Whether this op is to be remembered.
template <class... Vars>
bool recording(const Graph& graph, const Vars&... vars) {
  return graph.tape != nullptr && (vars.requires_grad() || ...);
}

// What activations are stored in: that of x, or on a GPU, where products are of 16 bits, those.
DType activation_dtype(const Graph& graph, const Tensor& x) {
  return x.device().is_cpu() || graph.compute == DType::kF32 ? x.dtype() : graph.compute;
}

// `tensor`, or zeros where nothing depends on that output.
Tensor or_zeros(Tensor tensor, const Tensor& like) {
  return tensor.defined() ? std::move(tensor) : Tensor::zeros(like.shape(), like.dtype(), like.device());
}

// Where a product writes a gradient: onto what has flowed in, or where the first is best written.
ops::GradientTarget target_of(Context& ctx, const Gradient& gradient) {
  if (!gradient.wanted()) return {false, {}, false};
  const Tensor sum = gradient.writable(ctx);
  return sum.defined() ? ops::GradientTarget{true, sum, true} : ops::GradientTarget{true, gradient.place(), false};
}

struct ScanGradients {
  Gradient u, dt, A, B, C, D, z, dt_bias, state_in;

  void add(Context& ctx, const ops::SelectiveScanGrads& grads) const {
    u.add(ctx, grads.u);
    dt.add(ctx, grads.dt);
    A.add(ctx, grads.A);
    B.add(ctx, grads.B);
    C.add(ctx, grads.C);
    D.add(ctx, grads.D);
    z.add(ctx, grads.z);
    dt_bias.add(ctx, grads.dt_bias);
    state_in.add(ctx, grads.state_in);
  }
};

}  // namespace

Var linear(Graph& graph, const Var& x, const Var& weight, const Var& bias, const Tensor& packed) {
  const bool record = recording(graph, x, weight, bias);
  ops::LinearArgs args{x.value(), weight.value(), bias.value(), graph.compute, {}, packed};
  if (record && graph.recompute != Recompute::kLayer) {  // the one that backward multiplies with, too
    args.weight = ops::product_weight(args.x, args.weight, graph.compute);
  }
  Var y(ops::linear_forward(graph.ctx, args), record);
  if (record) {
    const bool light = args.weight.size(1) * kLightProduct <= args.weight.size(0);
    if (graph.recompute != Recompute::kNone && light) {
      y.set_made_again([args](Context& ctx) { return ops::linear_forward(ctx, args); });
    }
    args.x = {};
    graph.tape->record([to_x = x.gradient(), to_weight = weight.gradient(), to_bias = bias.gradient(),
                        of_y = y.gradient(), saved_x = x.saved(), args](Context& ctx) mutable {
      const Tensor grad_y = of_y.take();
      if (!grad_y.defined()) return;
      args.x = saved_x.get(ctx);
      const ops::LinearTargets targets{target_of(ctx, to_x), target_of(ctx, to_weight), target_of(ctx, to_bias)};
      const ops::LinearGrads grads = ops::linear_gradients(ctx, args, grad_y, targets);
      if (!targets.weight.accumulate) to_weight.add(ctx, grads.weight);
      if (!targets.bias.accumulate) to_bias.add(ctx, grads.bias);
      if (!targets.x.accumulate) to_x.add(ctx, grads.x);
    });
  }
  return y;
}

Var embedding(Graph& graph, const Tensor& ids, const Var& table) {
  const bool record = recording(graph, table);
  const DType out = table.value().dtype() == DType::kF64 ? DType::kF64 : DType::kF32;
  Var y(ops::embedding_forward(graph.ctx, ids, table.value(), out), record);
  if (record) {
    graph.tape->record(
        [ids, to_table = table.gradient(), of_y = y.gradient(), v_m = table.value().shape()](Context& ctx) {
          const Tensor grad_y = of_y.take();
          if (!grad_y.defined()) return;
          if (!to_table.tensor().defined()) to_table.set(Tensor::zeros(v_m, grad_y.dtype(), grad_y.device()));
          ops::embedding_backward(ctx, ids, grad_y, to_table.writable(ctx));
        });
  }
  return y;
}

Var norm(Graph& graph, const Var& x, const Var& weight, const Var& bias, const Var& residual, NormKind kind, double eps,
         Var* residual_out) {
  ops::NormArgs args{x.value(), weight.value(), bias.value(), residual.value(), {}, kind, eps, false, 0, {}};
  args.out = activation_dtype(graph, x.value());
  const bool record = recording(graph, x, weight, bias, residual);
  Tensor summed;
  Var y(ops::norm_forward(graph.ctx, args, residual_out != nullptr || residual.defined() ? &summed : nullptr), record);
  Var sum(summed, record);
  if (record) {
    if (summed.defined()) {  // keep the sum instead of both terms
      args.x = summed;
      args.residual = {};
    }
    if (graph.recompute != Recompute::kNone) {
      y.set_made_again([args](Context& ctx) { return ops::norm_forward(ctx, args); });
    }
    graph.tape->record([to_x = x.gradient(), to_residual = residual.gradient(), to_weight = weight.gradient(),
                        to_bias = bias.gradient(), of_y = y.gradient(), of_sum = sum.gradient(), args,
                        of_x = x.value().dtype()](Context& ctx) {
      const Tensor grad_sum = of_sum.take();
      Tensor grad_y = of_y.take();
      if (!grad_y.defined() && !grad_sum.defined()) return;
      if (!grad_y.defined()) grad_y = Tensor::zeros(args.x.shape(), args.out.value(), args.x.device());
      const ops::NormGrads grads = ops::norm_backward(ctx, args, grad_y, grad_sum);
      to_weight.add(ctx, grads.weight);
      to_bias.add(ctx, grads.bias);
      to_x.add(ctx, grads.x.dtype() == of_x ? grads.x : grads.x_narrow);
      to_residual.add(ctx, grads.x);
    });
  }
  if (residual_out != nullptr) *residual_out = sum;  // last: it may be the Var that `residual` refers to
  return y;
}

Var gated_norm(Graph& graph, const Var& x, const Var& z, const Var& weight, const Var& bias, NormKind kind, double eps,
               bool norm_before_gate, std::int64_t group_size) {
  const ops::NormArgs args{x.value(),        weight.value(), bias.value(),     {}, z.value(), kind, eps,
                           norm_before_gate, group_size,     x.value().dtype()};
  const bool record = recording(graph, x, z, weight, bias);
  Var y(ops::norm_forward(graph.ctx, args), record);
  if (record) {
    graph.tape->record([to_x = x.gradient(), to_z = z.gradient(), to_weight = weight.gradient(),
                        to_bias = bias.gradient(), of_y = y.gradient(), args](Context& ctx) {
      const Tensor grad_y = of_y.take();
      if (!grad_y.defined()) return;
      const ops::NormGrads grads = ops::norm_backward(ctx, args, grad_y);
      to_weight.add(ctx, grads.weight);
      to_bias.add(ctx, grads.bias);
      to_z.add(ctx, grads.z);
      to_x.add(ctx, grads.x);
    });
  }
  return y;
}

Var causal_conv1d(Graph& graph, const Var& x, const Var& weight, const Var& bias, bool silu, bool reverse,
                  const Sequences& sequences, const Var& state_in, Var* state_out) {
  const ops::CausalConv1dArgs args{x.value(), weight.value(),   bias.value(),         silu,
                                   reverse,   state_in.value(), sequences.cu_seqlens, sequences.resets};
  const bool record = recording(graph, x, weight, bias, state_in);
  Tensor last;
  Var y(ops::causal_conv1d_forward(graph.ctx, args, state_out != nullptr ? &last : nullptr), record);
  Var state(last, record);
  if (record) {
    if (graph.recompute != Recompute::kNone) {
      y.set_made_again([args](Context& ctx) { return ops::causal_conv1d_forward(ctx, args); });
    }
    graph.tape->record([to_x = x.gradient(), to_weight = weight.gradient(), to_bias = bias.gradient(),
                        to_state = state_in.gradient(), of_y = y.gradient(), of_state = state.gradient(),
                        args](Context& ctx) {
      const Tensor grad_y = of_y.take(), grad_state = of_state.take();
      if (!grad_y.defined() && !grad_state.defined()) return;
      const ops::CausalConv1dGrads grads =
          ops::causal_conv1d_backward(ctx, args, or_zeros(grad_y, args.x), grad_state, to_x.place());
      to_weight.add(ctx, grads.weight);
      to_bias.add(ctx, grads.bias);
      to_state.add(ctx, grads.state_in);
      to_x.add(ctx, grads.x);
    });
  }
  if (state_out != nullptr) *state_out = state;  // last: it may be the Var of state_in
  return y;
}

Var selective_scan(Graph& graph, const SelectiveScanVars& v, bool dt_softplus, bool reverse, const Sequences& sequences,
                   Var* state_out) {
  const bool record = recording(graph, v.u, v.dt, v.A, v.B, v.C, v.D, v.z, v.dt_bias, v.state_in);
  ops::SelectiveScanArgs args;
  args.u = v.u.value();
  args.dt = v.dt.value();
  args.A = v.A.value();
  args.B = v.B.value();
  args.C = v.C.value();
  args.D = v.D.value();
  args.z = v.z.value();
  args.dt_bias = v.dt_bias.value();
  args.dt_softplus = dt_softplus;
  args.reverse = reverse;
  args.state_in = v.state_in.value();
  args.cu_seqlens = sequences.cu_seqlens;
  args.resets = sequences.resets;
  const auto saved = std::make_shared<ops::SelectiveScanSaved>();
  const bool again = graph.recompute == Recompute::kScan;
  Tensor last;
  Var y(ops::selective_scan_forward(graph.ctx, args, state_out != nullptr ? &last : nullptr,
                                    record && !again ? saved.get() : nullptr),
        record);
  Var state(last, record);
  if (record) {
    args.u = args.dt = {};
    if (again) {  // for who reads y, which is before the scan's own backward, with what that reads
      y.set_made_again([u = v.u.saved(), dt = v.dt.saved(), args, saved](Context& ctx) mutable {
        args.u = u.get(ctx);
        args.dt = dt.get(ctx);
        return ops::selective_scan_forward(ctx, args, nullptr, saved.get());
      });
    }
    const ScanGradients to{v.u.gradient(), v.dt.gradient(), v.A.gradient(),       v.B.gradient(),       v.C.gradient(),
                           v.D.gradient(), v.z.gradient(),  v.dt_bias.gradient(), v.state_in.gradient()};
    graph.tape->record([to, of_y = y.gradient(), of_state = state.gradient(), u = v.u.saved(), dt = v.dt.saved(), args,
                        saved](Context& ctx) mutable {
      const Tensor grad_y = of_y.take(), grad_state = of_state.take();
      if (!grad_y.defined() && !grad_state.defined()) return;
      args.u = u.get(ctx);
      args.dt = dt.get(ctx);
      to.add(ctx, ops::selective_scan_backward(ctx, args, *saved, or_zeros(grad_y, args.u), grad_state,
                                               {to.B.place(), to.C.place(), to.z.place()}));
    });
  }
  if (state_out != nullptr) *state_out = state;  // last: it may be the Var of state_in
  return y;
}

std::vector<Var> split(Graph& graph, const Var& x, const std::vector<std::int64_t>& sizes) {
  const bool record = recording(graph, x);
  check_equal("split", "sum of the parts", x.value().size(-1), std::accumulate(sizes.begin(), sizes.end(), 0LL));
  std::vector<Var> parts;
  std::vector<Gradient> of_parts;
  const auto whole =
      std::make_shared<WholeGradient>(WholeGradient{x.value().shape(), x.value().dtype(), x.value().device(), {}});
  std::int64_t begin = 0;
  for (const std::int64_t size : sizes) {
    parts.emplace_back(x.value().slice(-1, begin, begin + size), record);
    of_parts.push_back(parts.back().gradient());
    if (record) of_parts.back().make_part_of(whole, begin);
    begin += size;
  }
  if (record) {
    graph.tape->record([to_x = x.gradient(), of_parts, whole](Context& ctx) {
      for (const Gradient& of_part : of_parts) {
        const Tensor part = of_part.take(), into = of_part.place();
        if (!part.defined())
          into.fill(0);
        else if (part.raw() != into.raw())  // else it was written where it belongs
          ops::copy(ctx, into, part);
      }
      to_x.add(ctx, std::exchange(whole->tensor, {}));
    });
  }
  return parts;
}

Var reshape(Graph& graph, const Var& x, const Shape& shape) {
  const bool record = recording(graph, x);
  Var y(x.value().reshape(shape), record);
  if (record) {
    graph.tape->record([to_x = x.gradient(), of_y = y.gradient(), before = x.value().shape()](Context& ctx) {
      const Tensor grad_y = of_y.take();
      if (grad_y.defined()) to_x.add(ctx, grad_y.contiguous().reshape(before));
    });
  }
  return y;
}

Var add(Graph& graph, const Var& a, const Var& b) {
  const bool record = recording(graph, a, b);
  const Tensor sum = Tensor::empty(a.value().shape(), a.value().dtype(), a.value().device());
  ops::copy(graph.ctx, sum, a.value());
  ops::add_inplace(graph.ctx, sum, b.value());
  Var y(sum, record);
  if (record) {
    graph.tape->record([to_a = a.gradient(), to_b = b.gradient(), of_y = y.gradient()](Context& ctx) {
      const Tensor grad_y = of_y.take();
      to_a.add(ctx, grad_y);
      to_b.add(ctx, grad_y);
    });
  }
  return y;
}

Var neg_exp(Graph& graph, const Var& x) {
  const bool record = recording(graph, x);
  Var y(ops::neg_exp(graph.ctx, x.value()), record);
  if (record) {
    graph.tape->record([to_x = x.gradient(), y](Context& ctx) {
      const Tensor grad_y = y.gradient().take();
      if (grad_y.defined()) to_x.add(ctx, ops::multiply(ctx, grad_y, y.value()));  // d(-e^x) = -e^x = y
    });
  }
  return y;
}

Var rounded(Graph& graph, const Var& x, DType dtype) {
  const bool record = recording(graph, x);
  Var y(x.value().to(dtype).to(x.value().dtype()), record);
  if (record) {
    graph.tape->record([to_x = x.gradient(), of_y = y.gradient()](Context& ctx) { to_x.add(ctx, of_y.take()); });
  }
  return y;
}

Var dropout(Graph& graph, const Var& x, double p) {
  if (!graph.training || p == 0) return x;
  const bool record = recording(graph, x);
  const std::uint64_t seed = graph.dropout_seed, stream = graph.dropout_stream++;
  const Tensor& base = graph.dropout_base;
  Var y(ops::dropout(graph.ctx, x.value(), p, seed, stream, base), record);
  if (record) {
    graph.tape->record([to_x = x.gradient(), of_y = y.gradient(), p, seed, stream, base](Context& ctx) {
      const Tensor grad_y = of_y.take();
      if (grad_y.defined()) to_x.add(ctx, ops::dropout(ctx, grad_y, p, seed, stream, base));
    });
  }
  return y;
}

Var dot(Graph& graph, const Var& x, const Tensor& weights) {
  const bool record = recording(graph, x);
  const Tensor a = x.value().to(kCpuDevice).to(DType::kF64).contiguous();
  const Tensor b = weights.to(kCpuDevice).to(DType::kF64).contiguous();
  check_equal("dot", "elements", a.numel(), b.numel());
  double sum = 0;
  for (std::int64_t i = 0; i < a.numel(); ++i) sum += a.data<double>()[i] * b.data<double>()[i];
  Var y(Tensor::full({}, sum, DType::kF64), record);
  if (record) {
    const Shape shape = x.value().shape();
    graph.tape->record([to_x = x.gradient(), of_y = y.gradient(), weights, shape, dtype = x.value().dtype(),
                        device = x.value().device()](Context& ctx) {
      const Tensor grad_y = of_y.take();
      if (!grad_y.defined()) return;
      const Tensor grad = Tensor::empty(shape, dtype, device);
      grad.copy_from(weights);
      ops::scale_inplace(ctx, grad, grad_y.at({}));
      to_x.add(ctx, grad);
    });
  }
  return y;
}

Var linear_cross_entropy(Graph& graph, const Var& x, const Var& weight, const Tensor& targets,
                         const Tensor& token_weight) {
  const bool record = recording(graph, x, weight);
  const ops::LinearCrossEntropyArgs args{x.value(), weight.value(), {}, targets, graph.compute, token_weight};
  // Gradients come from the same pass, so that the logits are computed once.
  const ops::LinearCrossEntropyOut out = ops::linear_cross_entropy(graph.ctx, args, record);
  Var loss(out.device_loss.defined() ? out.device_loss : Tensor::full({}, out.loss, DType::kF64), record);
  if (record) {
    graph.tape->record([to_x = x.gradient(), to_weight = weight.gradient(), of_loss = loss.gradient(),
                        grad_x = out.grad_x, grad_weight = out.grad_weight](Context& ctx) {
      const Tensor grad_loss = of_loss.take();
      if (!grad_loss.defined()) return;
      if (const double scale = grad_loss.at({}); scale != 1) {
        ops::scale_inplace(ctx, grad_x, scale);
        ops::scale_inplace(ctx, grad_weight, scale);
      }
      to_weight.add(ctx, grad_weight);
      to_x.add(ctx, grad_x);
    });
  }
  return loss;
}

}  // namespace coluber::autograd
