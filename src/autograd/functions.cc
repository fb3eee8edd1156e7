// The differentiable twins of the ops. Each function runs the forward half, and when a tape is attached and an input
// wants a gradient, records the backward half with exactly what it needs.
#include <memory>

#include "coluber/autograd.h"
#include "core/check.h"

namespace coluber::autograd {
namespace {

// Whether this op is to be remembered.
template <class... Vars>
bool recording(const Graph& graph, const Vars&... vars) {
  return graph.tape != nullptr && (vars.requires_grad() || ...);
}

// The gradient that has arrived at an output; undefined when nothing depends on it.
Tensor take_grad(const Var& out) {
  Tensor grad = out.grad();
  out.set_grad({});
  return grad;
}

}  // namespace

Var linear(Graph& graph, const Var& x, const Var& weight, const Var& bias) {
  const bool record = recording(graph, x, weight, bias);
  ops::LinearArgs args{x.value(), weight.value(), bias.value(), graph.compute};
  Var y(ops::linear_forward(graph.ctx, args), record);
  if (record) {
    graph.tape->record([x, weight, bias, y, args](Context& ctx) {
      const Tensor grad_y = take_grad(y);
      if (!grad_y.defined()) return;
      const Tensor weight_into = weight.requires_grad() ? weight.grad() : Tensor{};
      const Tensor bias_into = bias.requires_grad() ? bias.grad() : Tensor{};
      ops::LinearGrads grads = ops::linear_backward(ctx, args, grad_y, x.requires_grad(), weight_into, bias_into);
      if (!weight_into.defined()) weight.accumulate_grad(ctx, std::exchange(grads.weight, {}));
      if (!bias_into.defined() && bias.defined()) bias.accumulate_grad(ctx, std::exchange(grads.bias, {}));
      x.accumulate_grad(ctx, std::exchange(grads.x, {}));
    });
  }
  return y;
}

Var embedding(Graph& graph, const Tensor& ids, const Var& table) {
  const bool record = recording(graph, table);
  const DType out = table.value().dtype() == DType::kF64 ? DType::kF64 : DType::kF32;
  Var y(ops::embedding_forward(graph.ctx, ids, table.value(), out), record);
  if (record) {
    graph.tape->record([ids, table, y](Context& ctx) {
      const Tensor grad_y = take_grad(y);
      if (!grad_y.defined()) return;
      if (!table.grad().defined()) table.set_grad(Tensor::zeros(table.value().shape(), table.value().dtype()));
      ops::embedding_backward(ctx, ids, grad_y, table.grad());
    });
  }
  return y;
}

Var norm(Graph& graph, const Var& x, const Var& weight, const Var& bias, const Var& residual, NormKind kind, double eps,
         Var* residual_out) {
  ops::NormArgs args{x.value(), weight.value(), bias.value(), residual.value(), {}, kind, eps, false, 0};
  const bool record = recording(graph, x, weight, bias, residual);
  Tensor summed;
  Var y(ops::norm_forward(graph.ctx, args, residual_out != nullptr || residual.defined() ? &summed : nullptr), record);
  Var sum(summed, record);
  if (record) {
    if (summed.defined()) {  // keep the sum instead of both terms
      args.x = summed;
      args.residual = {};
    }
    graph.tape->record([x, weight, bias, residual, sum, y, args](Context& ctx) {
      const Tensor grad_y = take_grad(y);
      const Tensor grad_sum = sum.defined() ? take_grad(sum) : Tensor{};
      if (!grad_y.defined() && !grad_sum.defined()) return;
      ops::NormGrads grads = ops::norm_backward(
          ctx, args, grad_y.defined() ? grad_y : Tensor::zeros(args.x.shape(), args.x.dtype()), grad_sum);
      weight.accumulate_grad(ctx, grads.weight);
      bias.accumulate_grad(ctx, grads.bias);
      if (residual.requires_grad()) x.accumulate_grad(ctx, grads.x);
      (residual.requires_grad() ? residual : x).accumulate_grad(ctx, std::exchange(grads.x, {}));
    });
  }
  if (residual_out != nullptr) *residual_out = sum;  // last: it may be the Var that `residual` refers to
  return y;
}

Var gated_norm(Graph& graph, const Var& x, const Var& z, const Var& weight, const Var& bias, NormKind kind, double eps,
               bool norm_before_gate, std::int64_t group_size) {
  ops::NormArgs args{x.value(), weight.value(), bias.value(), {}, z.value(), kind, eps, norm_before_gate, group_size};
  const bool record = recording(graph, x, z, weight, bias);
  Var y(ops::norm_forward(graph.ctx, args), record);
  if (record) {
    graph.tape->record([x, z, weight, bias, y, args](Context& ctx) {
      const Tensor grad_y = take_grad(y);
      if (!grad_y.defined()) return;
      ops::NormGrads grads = ops::norm_backward(ctx, args, grad_y);
      weight.accumulate_grad(ctx, grads.weight);
      bias.accumulate_grad(ctx, grads.bias);
      z.accumulate_grad(ctx, std::exchange(grads.z, {}));
      x.accumulate_grad(ctx, std::exchange(grads.x, {}));
    });
  }
  return y;
}

Var causal_conv1d(Graph& graph, const Var& x, const Var& weight, const Var& bias, bool silu, bool reverse,
                  const Sequences& sequences, const Var& state_in, Var* state_out) {
  const ops::CausalConv1dArgs args{x.value(), weight.value(),     bias.value(),         silu,
                                   reverse,   state_in.value(),   sequences.cu_seqlens, sequences.resets};
  const bool record = recording(graph, x, weight, bias, state_in);
  Tensor last;
  Var y(ops::causal_conv1d_forward(graph.ctx, args, state_out != nullptr ? &last : nullptr), record);
  Var state(last, record);
  if (state_out != nullptr) *state_out = state;
  if (record) {
    graph.tape->record([x, weight, bias, state_in, state, y, args](Context& ctx) {
      Tensor grad_y = take_grad(y);
      const Tensor grad_state = state.defined() ? take_grad(state) : Tensor{};
      if (!grad_y.defined() && !grad_state.defined()) return;
      if (!grad_y.defined()) grad_y = Tensor::zeros(args.x.shape(), args.x.dtype());
      ops::CausalConv1dGrads grads = ops::causal_conv1d_backward(ctx, args, grad_y, grad_state);
      weight.accumulate_grad(ctx, grads.weight);
      bias.accumulate_grad(ctx, grads.bias);
      state_in.accumulate_grad(ctx, grads.state_in);
      x.accumulate_grad(ctx, std::exchange(grads.x, {}));
    });
  }
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
  ops::SelectiveScanSaved saved;
  Tensor last;
  Var y(ops::selective_scan_forward(graph.ctx, args, state_out != nullptr ? &last : nullptr, record ? &saved : nullptr),
        record);
  Var state(last, record);
  if (state_out != nullptr) *state_out = state;
  if (record) {
    graph.tape->record([v, y, state, args, saved](Context& ctx) {
      Tensor grad_y = take_grad(y);
      const Tensor grad_state = state.defined() ? take_grad(state) : Tensor{};
      if (!grad_y.defined() && !grad_state.defined()) return;
      if (!grad_y.defined()) grad_y = Tensor::zeros(args.u.shape(), args.u.dtype());
      ops::SelectiveScanGrads grads = ops::selective_scan_backward(ctx, args, saved, grad_y, grad_state);
      v.u.accumulate_grad(ctx, std::exchange(grads.u, {}));
      v.dt.accumulate_grad(ctx, std::exchange(grads.dt, {}));
      v.A.accumulate_grad(ctx, std::exchange(grads.A, {}));
      v.B.accumulate_grad(ctx, std::exchange(grads.B, {}));
      v.C.accumulate_grad(ctx, std::exchange(grads.C, {}));
      v.D.accumulate_grad(ctx, std::exchange(grads.D, {}));
      v.z.accumulate_grad(ctx, std::exchange(grads.z, {}));
      v.dt_bias.accumulate_grad(ctx, std::exchange(grads.dt_bias, {}));
      v.state_in.accumulate_grad(ctx, std::exchange(grads.state_in, {}));
    });
  }
  return y;
}

std::vector<Var> split(Graph& graph, const Var& x, const std::vector<std::int64_t>& sizes) {
  const bool record = recording(graph, x);
  std::vector<Var> parts;
  std::int64_t begin = 0;
  for (std::int64_t size : sizes) {
    parts.emplace_back(x.value().slice(-1, begin, begin + size), record);
    begin += size;
  }
  check_equal("split", "sum of the parts", x.value().size(-1), begin);
  if (record) {
    graph.tape->record([x, parts](Context& ctx) {
      const Tensor grad = Tensor::empty(x.value().shape(), x.value().dtype());
      std::int64_t at = 0;
      for (const Var& part : parts) {
        const std::int64_t size = part.value().size(-1);
        const Tensor into = grad.slice(-1, at, at + size);
        const Tensor grad_part = take_grad(part);
        grad_part.defined() ? ops::copy(ctx, into, grad_part) : into.fill(0);
        at += size;
      }
      x.accumulate_grad(ctx, grad);
    });
  }
  return parts;
}

Var reshape(Graph& graph, const Var& x, const Shape& shape) {
  const bool record = recording(graph, x);
  Var y(x.value().reshape(shape), record);
  if (record) {
    graph.tape->record([x, y](Context& ctx) {
      const Tensor grad_y = take_grad(y);
      if (grad_y.defined()) x.accumulate_grad(ctx, grad_y.contiguous().reshape(x.value().shape()));
    });
  }
  return y;
}

Var add(Graph& graph, const Var& a, const Var& b) {
  const bool record = recording(graph, a, b);
  const Tensor sum = a.value().clone();
  ops::add_inplace(graph.ctx, sum, b.value());
  Var y(sum, record);
  if (record) {
    graph.tape->record([a, b, y](Context& ctx) {
      Tensor grad_y = take_grad(y);
      a.accumulate_grad(ctx, grad_y);
      b.accumulate_grad(ctx, std::exchange(grad_y, {}));
    });
  }
  return y;
}

Var neg_exp(Graph& graph, const Var& x) {
  const bool record = recording(graph, x);
  Var y(ops::neg_exp(graph.ctx, x.value()), record);
  if (record) {
    graph.tape->record([x, y](Context& ctx) {
      const Tensor grad_y = take_grad(y);
      if (grad_y.defined()) x.accumulate_grad(ctx, ops::multiply(ctx, grad_y, y.value()));  // d(-e^x) = -e^x = y
    });
  }
  return y;
}

Var dropout(Graph& graph, const Var& x, double p) {
  if (!graph.training || p == 0) return x;
  const bool record = recording(graph, x);
  const std::uint64_t seed = graph.dropout_seed, stream = graph.dropout_stream++;
  Var y(ops::dropout(graph.ctx, x.value(), p, seed, stream), record);
  if (record) {
    graph.tape->record([x, y, p, seed, stream](Context& ctx) {
      const Tensor grad_y = take_grad(y);
      if (grad_y.defined()) x.accumulate_grad(ctx, ops::dropout(ctx, grad_y, p, seed, stream));
    });
  }
  return y;
}

Var dot(Graph& graph, const Var& x, const Tensor& weights) {
  const bool record = recording(graph, x);
  const Tensor a = x.value().to(DType::kF64).contiguous(), b = weights.to(DType::kF64).contiguous();
  check_equal("dot", "elements", a.numel(), b.numel());
  double sum = 0;
  for (std::int64_t i = 0; i < a.numel(); ++i) sum += a.data<double>()[i] * b.data<double>()[i];
  Var y(Tensor::full({}, sum, DType::kF64), record);
  if (record) {
    graph.tape->record([x, y, weights](Context& ctx) {
      const Tensor grad_y = take_grad(y);
      if (!grad_y.defined()) return;
      const Tensor grad = Tensor::empty(x.value().shape(), x.value().dtype());
      grad.copy_from(weights);
      ops::scale_inplace(ctx, grad, grad_y.at({}));
      x.accumulate_grad(ctx, grad);
    });
  }
  return y;
}

Var linear_cross_entropy(Graph& graph, const Var& x, const Var& weight, const Tensor& targets) {
  const bool record = recording(graph, x, weight);
  const ops::LinearCrossEntropyArgs args{x.value(), weight.value(), {}, targets, graph.compute};
  // Gradients come from the same pass, so that the logits are computed once.
  auto out = std::make_shared<ops::LinearCrossEntropyOut>(ops::linear_cross_entropy(graph.ctx, args, record));
  Var loss(Tensor::full({}, out->loss, DType::kF64), record);
  if (record) {
    graph.tape->record([x, weight, loss, out](Context& ctx) {
      const Tensor grad_loss = take_grad(loss);
      if (!grad_loss.defined()) return;
      if (const double scale = grad_loss.at({}); scale != 1) {
        ops::scale_inplace(ctx, out->grad_x, scale);
        ops::scale_inplace(ctx, out->grad_weight, scale);
      }
      weight.accumulate_grad(ctx, std::exchange(out->grad_weight, {}));
      x.accumulate_grad(ctx, std::exchange(out->grad_x, {}));
    });
  }
  return loss;
}

}  // namespace coluber::autograd
