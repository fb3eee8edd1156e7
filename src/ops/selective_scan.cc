// selective_scan: checks, layouts and the choice of kernel.
#include "kernels/selective_scan.h"

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "coluber/ops.h"
#include "core/cuda.h"
#include "kernels/reference/selective_scan.h"
#include "ops/op_check.h"
#include "ops/sequences.h"

namespace coluber::ops {
namespace {

constexpr std::string_view kOp = "selective_scan";

struct Extents {
  std::int64_t b = 0, l = 0, d = 0, n = 0, slots = 0;
  std::int64_t elems = 1;  // numbers per state: 2 when complex

  Shape state() const { return elems == 2 ? Shape{slots, d, n, 2} : Shape{slots, d, n}; }
};

// (...,n,2) -> (...,2n) for complex ones: re and im are neighbours.
Tensor join_pairs(const Tensor& t, std::int64_t elems) {
  if (!t.defined() || elems == 1) return t;
  const Tensor c = t.contiguous();
  std::vector<std::int64_t> shape(c.shape().begin(), c.shape().end() - 1);
  shape.back() *= 2;
  return c.reshape(Shape(shape));
}

// On a GPU the kernels for any shape read any strides, and so much work (numbers of states of all tokens) is done
// before a copy would have started.
constexpr std::int64_t kFewStates = 1 << 16;

// Fast kernels read channels (and states of B, C) as vectors.
Tensor with_unit_stride(const Tensor& t) {
  return !t.defined() || t.size(-1) <= 1 || t.stride(-1) == 1 ? t : t.clone();
}

void check_coefficients(std::string_view name, const Tensor& t, const Extents& x) {
  const int rank = t.rank() - static_cast<int>(x.elems - 1);
  const char* expected = x.elems == 2 ? "(d, n, 2), (b, l, n, 2) or (b, l, g, n, 2), since A is complex"
                                      : "(d, n), (b, l, n) or (b, l, g, n)";
  if (!t.defined() || rank < 2 || rank > 4) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, name, join("shape ", expected),
                 t.defined() ? t.shape().to_string() : "no tensor");
  }
  if (rank == 2) x.elems == 2 ? check_shape(kOp, name, t, {x.d, x.n, 2}) : check_shape(kOp, name, t, {x.d, x.n});
  if (rank == 3) {
    x.elems == 2 ? check_shape(kOp, name, t, {x.b, x.l, x.n, 2}) : check_shape(kOp, name, t, {x.b, x.l, x.n});
  }
  if (rank == 4) {
    x.elems == 2 ? check_shape(kOp, name, t, {x.b, x.l, -1, x.n, 2}) : check_shape(kOp, name, t, {x.b, x.l, -1, x.n});
    if (t.size(2) < 1 || x.d % t.size(2) != 0) {
      refuse_value(ErrorCode::kInvalidArgument, kOp, join("groups of ", name), join("a divisor of ", x.d, " channels"),
                   std::to_string(t.size(2)));
    }
  }
}

// B or C as the kernels see it, (b,l,g,n e): a constant one has a group for each channel and strides 0 along b and l.
struct Coefficients {
  Tensor tensor;
  bool is_constant = false;
};

Coefficients as_grouped(const Tensor& t, const Extents& x, bool unit_stride) {
  const int rank = t.rank() - static_cast<int>(x.elems - 1);
  Tensor flat = join_pairs(t, x.elems);
  if (unit_stride) flat = with_unit_stride(flat);
  if (rank == 3) return {flat.unsqueeze(2), false};
  if (rank == 4) return {flat, false};
  return {flat.with_strides({x.b, x.l, x.d, x.n * x.elems}, {0, 0, flat.stride(0), flat.stride(1)}), true};
}

Extents check_extents(const SelectiveScanArgs& args) {
  Extents x;
  check_shape(kOp, "u", args.u, {-1, -1, -1});
  x.b = args.u.size(0);
  x.l = args.u.size(1);
  x.d = args.u.size(2);
  if (args.A.rank() == 3) {
    x.elems = 2;
    check_shape(kOp, "A", args.A, {x.d, -1, 2});
  } else {
    check_shape(kOp, "A", args.A, {x.d, -1});
  }
  x.n = args.A.size(1);
  if (x.n < 1 || x.n > 256) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "d_state (second axis of A)", "1 to 256", std::to_string(x.n));
  }
  check_shape(kOp, "dt", args.dt, {x.b, x.l, x.d});
  if (args.z.defined()) check_shape(kOp, "z", args.z, {x.b, x.l, x.d});
  if (args.D.defined()) check_shape(kOp, "D", args.D, {x.d});
  if (args.dt_bias.defined()) check_shape(kOp, "dt_bias", args.dt_bias, {x.d});
  check_coefficients("B", args.B, x);
  check_coefficients("C", args.C, x);
  return x;
}

void check_dtypes(const SelectiveScanArgs& args) {
  check_storage(kOp, "u", args.u);
  const DType storage = args.u.dtype(), parameter = parameter_dtype(args.u);
  auto check = [&](std::string_view name, const Tensor& t, DType dtype) {
    if (t.defined()) check_dtype(kOp, name, t, dtype);
    check_device(kOp, name, t, args.u.device());
  };
  check("dt", args.dt, storage);
  check("A", args.A, parameter);
  check("B", args.B, storage);
  check("C", args.C, storage);
  check("D", args.D, parameter);
  check("z", args.z, storage);
  check("dt_bias", args.dt_bias, parameter);
  check("state_in", args.state_in, parameter);
}

// A tensor of the caller that the kernel writes, or the gradient of one that it made.
void check_like(std::string_view name, const Tensor& t, const Shape& shape, DType dtype) {
  if (!(t.defined() && t.shape() == shape)) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, name, "shape " + shape.to_string(),
                 t.defined() ? t.shape().to_string() : "no tensor");
  }
  check_dtype(kOp, name, t, dtype);
}

// Everything that a call needs, kept alive while the kernel runs.
struct Prepared {
  Extents x;
  Tensor u, dt, z, A, D, dt_bias, state_in, resets;
  Coefficients B, C;
  std::vector<SequenceRange> sequences;
  DeviceSequences device_sequences;
  bool reference = false;
  bool any_strides = false;  // the kernel takes inputs as they lie

  bool on_gpu() const { return !u.device().is_cpu(); }
  bool is_empty() const { return x.b * x.l * x.d == 0; }  // the kernels of a GPU have nothing to start

  // (s,d,n e); the view of a contiguous tensor, otherwise a copy.
  Tensor flat_state(const Tensor& t) const {
    return t.defined() ? t.contiguous().reshape({x.slots, x.d, x.n * x.elems}) : t;
  }
};

Prepared prepare(const Context& ctx, const SelectiveScanArgs& args) {
  check_dtypes(args);
  check_algorithm(kOp, ctx, args.u.device());
  Prepared p;
  p.reference = args.u.device().is_cpu() &&
                (args.u.dtype() == DType::kF64 || ctx.algorithm() == Algorithm::kReference || args.u.numel() == 0);
  p.x = check_extents(args);
  p.sequences = sequence_ranges(kOp, p.x.b, p.x.l, args.cu_seqlens);
  p.x.slots = static_cast<std::int64_t>(p.sequences.size());
  p.device_sequences = DeviceSequences(p.sequences, args.cu_seqlens.defined(), args.u.device());
  p.resets = checked_resets(kOp, args.resets, p.x.b, p.x.l, args.u.device());
  p.any_strides = p.reference || (!args.u.device().is_cpu() && args.u.numel() * p.x.n * p.x.elems <= kFewStates);
  auto layout = [&](const Tensor& t) { return p.any_strides ? t : with_unit_stride(t); };
  p.u = layout(args.u);
  p.dt = layout(args.dt);
  p.z = layout(args.z);
  p.A = join_pairs(args.A, p.x.elems).contiguous();
  p.D = args.D.defined() ? args.D.contiguous() : args.D;
  p.dt_bias = args.dt_bias.defined() ? args.dt_bias.contiguous() : args.dt_bias;
  p.B = as_grouped(args.B, p.x, !p.any_strides);
  p.C = as_grouped(args.C, p.x, !p.any_strides);
  if (args.state_in.defined()) check_like("state_in", args.state_in, p.x.state(), parameter_dtype(args.u));
  p.state_in = p.flat_state(args.state_in);
  return p;
}

template <class T, class P>
SelectiveScanParams<T, P> to_params(const SelectiveScanArgs& args, const Prepared& p) {
  SelectiveScanParams<T, P> k;
  k.d = p.x.d;
  k.n = p.x.n;
  k.is_complex = p.x.elems == 2;
  k.dt_softplus = args.dt_softplus;
  k.reverse = args.reverse;
  k.u = view_of<const T, 3>(p.u);
  k.dt = view_of<const T, 3>(p.dt);
  k.z = view_of<const T, 3>(p.z);
  k.A = view_of<const P, 2>(p.A);
  k.B = view_of<const T, 4>(p.B.tensor);
  k.C = view_of<const T, 4>(p.C.tensor);
  k.B_is_constant = p.B.is_constant;
  k.C_is_constant = p.C.is_constant;
  k.D = p.D.defined() ? p.D.data<P>() : nullptr;
  k.dt_bias = p.dt_bias.defined() ? p.dt_bias.data<P>() : nullptr;
  k.resets = view_of<const std::uint8_t, 2>(p.resets);
  k.sequences = p.device_sequences.ranges;
  k.num_sequences = p.x.slots;
  k.state_in = view_of<const P, 3>(p.state_in);
  return k;
}

// What becomes of a state without tokens.
void pass_through(const Tensor& out, const Tensor& in) {
  if (!out.defined() || (in.defined() && out.raw() == in.raw())) return;
  in.defined() ? out.copy_from(in) : out.fill(0);
}

// Both may be the same memory: every kernel reads a channel's state before it writes it. Other overlaps may not.
bool overlaps_partly(const Tensor& a, const Tensor& b) {
  if (a.numel() == 0 || b.numel() == 0 || a.raw() == b.raw()) return false;
  const auto* a_begin = static_cast<const std::byte*>(a.raw());
  const auto* b_begin = static_cast<const std::byte*>(b.raw());
  return std::less<>{}(a_begin, b_begin + b.size_bytes()) && std::less<>{}(b_begin, a_begin + a.size_bytes());
}

// What a forward pass writes as its last state, (s,d,n e): undefined when nobody asks, a copy where the caller's tensor
// is not contiguous.
Tensor state_to_write(const SelectiveScanArgs& args, Prepared& p, Tensor* state_out) {
  if (state_out == nullptr) return {};
  const DType dtype = parameter_dtype(args.u);
  if (!state_out->defined()) *state_out = Tensor::empty(p.x.state(), dtype, args.u.device());
  check_like("state_out", *state_out, p.x.state(), dtype);
  check_device(kOp, "state_out", *state_out, args.u.device());
  const Tensor state = p.flat_state(*state_out);
  if (overlaps_partly(state, p.state_in)) p.state_in = p.state_in.clone();
  return state;
}

void check_gradients_of_results(const SelectiveScanArgs& args, const Prepared& p, const Tensor& grad_y,
                                const Tensor& grad_state_out) {
  check_like("grad_y", grad_y, args.u.shape(), args.u.dtype());
  check_device(kOp, "grad_y", grad_y, args.u.device());
  if (grad_state_out.defined()) {
    check_like("grad_state_out", grad_state_out, p.x.state(), parameter_dtype(args.u));
  }
  check_device(kOp, "grad_state_out", grad_state_out, args.u.device());
}

// Memory for the gradients of all inputs: the caller's where it names a target, else new. 0 where the kernel adds.
SelectiveScanGrads make_gradients(const SelectiveScanArgs& args, const Prepared& p, const SelectiveScanTargets& into) {
  const bool adds = p.reference || (p.on_gpu() && p.is_empty());
  auto make = [&](const Tensor& like) {
    if (!like.defined()) return Tensor{};
    return adds ? Tensor::zeros(like.shape(), like.dtype(), like.device())
                : Tensor::empty(like.shape(), like.dtype(), like.device());
  };
  auto place = [&](std::string_view name, const Tensor& target, const Tensor& like) {
    if (!target.defined()) return make(like);
    check_target(kOp, name, target, like);
    check_equal(kOp, "numbers of a state where a target is given", 1, p.x.elems);
    if (adds) target.fill(0);
    return target;
  };
  return {make(args.u),
          make(args.dt),
          make(args.A),
          place("target of B", into.B, args.B),
          place("target of C", into.C, args.C),
          make(args.D),
          place("target of z", into.z, args.z),
          make(args.dt_bias),
          make(args.state_in)};
}

template <class T, class P>
SelectiveScanGradParams<T, P> to_grad_params(const Prepared& p, const SelectiveScanGrads& grads, const Tensor& grad_y,
                                             const Tensor& grad_state) {
  SelectiveScanGradParams<T, P> g;
  g.grad_y = view_of<const T, 3>(grad_y);
  g.grad_state_out = view_of<const P, 3>(grad_state);
  g.grad_u = view_of<T, 3>(grads.u);
  g.grad_dt = view_of<T, 3>(grads.dt);
  g.grad_z = view_of<T, 3>(grads.z);
  g.grad_A = view_of<P, 2>(join_pairs(grads.A, p.x.elems));
  g.grad_B = view_of<T, 4>(as_grouped(grads.B, p.x, false).tensor);
  g.grad_C = view_of<T, 4>(as_grouped(grads.C, p.x, false).tensor);
  g.grad_D = grads.D.defined() ? grads.D.data<P>() : nullptr;
  g.grad_dt_bias = grads.dt_bias.defined() ? grads.dt_bias.data<P>() : nullptr;
  g.grad_state_in = view_of<P, 3>(p.flat_state(grads.state_in));
  return g;
}

}  // namespace

Tensor selective_scan_forward(Context& ctx, const SelectiveScanArgs& args, Tensor* state_out,
                              SelectiveScanSaved* saved) {
  Prepared p = prepare(ctx, args);
  const DType dtype = args.u.dtype();
  const Device device = args.u.device();
  const Tensor y = Tensor::empty(args.u.shape(), dtype, device);
  const Tensor state = state_to_write(args, p, state_out);
  auto run = [&](auto storage, auto parameter_type, auto&& kernel) {
    using T = decltype(storage);
    using P = decltype(parameter_type);
    SelectiveScanParams<T, P> k = to_params<T, P>(args, p);
    k.y = view_of<T, 3>(y);
    k.state_out = view_of<P, 3>(state);
    kernel(k);
  };
  auto checkpoints = [&](std::int64_t elems) -> float* {
    if (saved == nullptr || elems == 0) return nullptr;
    saved->checkpoints = Tensor::empty({elems}, DType::kF32, device);
    return saved->checkpoints.data<float>();
  };
  if (saved != nullptr) saved->checkpoints = {};
  if (p.on_gpu() && p.is_empty()) {
    pass_through(state, p.state_in);
  } else if (p.on_gpu()) {
    with_storage(dtype, [&](auto storage) {
      run(storage, 0.0f, [&](const auto& k) {
        const cuda::Stream stream = cuda::current_stream(device.index);
        float* at = checkpoints(saved == nullptr ? 0 : cuda::selective_scan_checkpoint_elems(stream, k));
        cuda::selective_scan_forward(stream, k, at);
      });
    });
  } else if (dtype == DType::kF64) {
    run(0.0, 0.0, [](const auto& k) { reference::selective_scan_forward(k); });
  } else if (p.reference) {
    run(0.0f, 0.0f, [](const auto& k) { reference::selective_scan_forward(k); });
  } else {
    run(0.0f, 0.0f, [&](const auto& k) {
      cpu::selective_scan_forward(ctx.threads(), ctx.scratch(), k,
                                  checkpoints(saved == nullptr ? 0 : cpu::selective_scan_checkpoint_elems(k)));
    });
  }
  if (state_out != nullptr && !state_out->is_contiguous()) state_out->copy_from(state.reshape(p.x.state()));
  return y;
}

SelectiveScanGrads selective_scan_backward(Context& ctx, const SelectiveScanArgs& args, const SelectiveScanSaved& saved,
                                           const Tensor& grad_y, const Tensor& grad_state_out,
                                           const SelectiveScanTargets& into) {
  const Prepared p = prepare(ctx, args);
  const DType dtype = args.u.dtype();
  const Device device = args.u.device();
  check_gradients_of_results(args, p, grad_y, grad_state_out);
  const Tensor gy = p.any_strides ? grad_y : with_unit_stride(grad_y);
  const Tensor grad_state = p.flat_state(grad_state_out);
  const SelectiveScanGrads grads = make_gradients(args, p, into);
  auto run = [&](auto storage, auto parameter_type, auto&& kernel) {
    using T = decltype(storage);
    using P = decltype(parameter_type);
    kernel(to_params<T, P>(args, p), to_grad_params<T, P>(p, grads, gy, grad_state));
  };
  auto checkpoints = [&](std::int64_t elems) -> const float* {
    if (!saved.checkpoints.defined()) return nullptr;
    check_like("saved checkpoints", saved.checkpoints, {elems}, DType::kF32);
    return saved.checkpoints.data<float>();
  };
  if (p.on_gpu() && p.is_empty()) {
    pass_through(p.flat_state(grads.state_in), grad_state);
    return grads;
  }
  if (p.on_gpu()) {
    with_storage(dtype, [&](auto storage) {
      run(storage, 0.0f, [&](const auto& k, const auto& g) {
        const cuda::Stream stream = cuda::current_stream(device.index);
        cuda::selective_scan_backward(stream, k, checkpoints(cuda::selective_scan_checkpoint_elems(stream, k)), g);
      });
    });
  } else if (dtype == DType::kF64) {
    run(0.0, 0.0, [](const auto& k, const auto& g) { reference::selective_scan_backward(k, g); });
  } else if (p.reference) {
    run(0.0f, 0.0f, [](const auto& k, const auto& g) { reference::selective_scan_backward(k, g); });
  } else {
    run(0.0f, 0.0f, [&](const auto& k, const auto& g) {
      cpu::selective_scan_backward(ctx.threads(), ctx.scratch(), k,
                                   checkpoints(cpu::selective_scan_checkpoint_elems(k)), g);
    });
  }
  return grads;
}

Tensor selective_scan_step(Context& ctx, const SelectiveScanArgs& args, const Tensor& state) {
  check_shape(kOp, "u of a step", args.u, {-1, 1, -1});
  if (args.cu_seqlens.defined()) {
    refuse(ErrorCode::kInvalidArgument, kOp,
           "cu_seqlens of a step: expected none, got a tensor (rows are the sequences)");
  }
  if (!state.defined()) {
    refuse(ErrorCode::kInvalidArgument, kOp, "state of a step: expected shape (b, d, n), got no tensor");
  }
  SelectiveScanArgs one = args;
  one.state_in = state;
  Tensor state_out = state;
  return selective_scan_forward(ctx, one, &state_out);
}

}  // namespace coluber::ops
