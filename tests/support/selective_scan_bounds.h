// What selective_scan gives in exact arithmetic, and how far float32 may be off: the plain loops run with Bounded.
#pragma once

#include <string>
#include <vector>

#include "coluber/ops.h"
#include "kernels/reference/selective_scan.h"
#include "tests/support/error_bound.h"

namespace coluber::testing {

struct BoundedTensor {
  Shape shape;
  std::vector<Bounded> numbers;  // row-major
};

inline BoundedTensor bounded(const Tensor& t) {
  if (!t.defined()) return {};
  const Tensor exact = t.to(DType::kF64).contiguous();
  const double* begin = exact.data<double>();
  return {t.shape(), std::vector<Bounded>(begin, begin + exact.numel())};
}
inline BoundedTensor zeros_like(const BoundedTensor& t) {
  return {t.shape, std::vector<Bounded>(t.numbers.size())};
}

inline Tensor values_of(const BoundedTensor& t) {
  const Tensor values = Tensor::empty(t.shape, DType::kF64);
  for (std::size_t i = 0; i < t.numbers.size(); ++i) values.data<double>()[i] = t.numbers[i].value;
  return values;
}

// max |got - exact| over twice the bound: 1 or less is right. Twice, because a fast kernel orders products differently;
// 1e-30 more, because it flushes denormals.
inline double worst_share(const Tensor& got, const BoundedTensor& expected) {
  if (!got.defined() || !(got.shape() == expected.shape)) return std::numeric_limits<double>::infinity();
  const Tensor values = got.to(DType::kF64).contiguous();
  double worst = 0;
  for (std::int64_t i = 0; i < values.numel(); ++i) {
    const Bounded& e = expected.numbers[static_cast<std::size_t>(i)];
    const double share = std::abs(values.data<double>()[i] - e.value) / (2 * e.error + 1e-30);
    worst = std::isnan(share) ? std::numeric_limits<double>::infinity() : std::max(worst, share);
  }
  return worst;
}

struct BoundedScan {
  BoundedTensor y, state_out;
  BoundedTensor u, dt, A, B, C, D, z, dt_bias, state_in;  // gradients
};

namespace scan_bounds_detail {

template <int Rank, class T>
View<T, Rank> view(std::vector<Bounded>& numbers, const std::int64_t (&shape)[Rank]) {
  View<T, Rank> v;
  v.data = numbers.empty() ? nullptr : numbers.data();
  std::int64_t stride = 1;
  for (int axis = Rank - 1; axis >= 0; --axis) {
    v.shape[axis] = shape[axis];
    v.strides[axis] = stride;
    stride *= shape[axis];
  }
  return v;
}

// B, C and their gradients as the kernel sees them: (b,l,g,n e).
template <class T>
View<T, 4> coefficients(BoundedTensor& t, std::int64_t b, std::int64_t l, std::int64_t width, bool is_complex) {
  const int rank = t.shape.rank() - (is_complex ? 1 : 0);
  if (rank == 3) return view<4, T>(t.numbers, {b, l, 1, width});
  if (rank == 4) return view<4, T>(t.numbers, {b, l, t.shape[2], width});
  View<T, 4> v = view<4, T>(t.numbers, {b, l, t.shape[0], width});
  v.strides[0] = v.strides[1] = 0;
  return v;
}

}  // namespace scan_bounds_detail

inline BoundedScan bounded_scan(const ops::SelectiveScanArgs& args, const Tensor& grad_y,
                                const Tensor& grad_state_out) {
  namespace detail = scan_bounds_detail;
  const std::int64_t b = args.u.size(0), l = args.u.size(1), d = args.u.size(2), n = args.A.size(1);
  const bool is_complex = args.A.rank() == 3;
  const std::int64_t width = is_complex ? 2 * n : n;
  const Tensor borders = args.cu_seqlens.defined() ? args.cu_seqlens.contiguous() : Tensor{};
  std::vector<SequenceRange> sequences;
  for (std::int64_t i = 0; i + 1 < borders.numel(); ++i)
    sequences.push_back({0, borders.data<std::int32_t>()[i], borders.data<std::int32_t>()[i + 1]});
  for (std::int64_t row = 0; row < b && !borders.defined(); ++row) sequences.push_back({row, 0, l});
  const auto slots = static_cast<std::int64_t>(sequences.size());
  const Tensor resets = args.resets.defined() ? args.resets.contiguous() : Tensor{};
  BoundedTensor u = bounded(args.u), dt = bounded(args.dt), z = bounded(args.z), A = bounded(args.A),
                B = bounded(args.B), C = bounded(args.C), D = bounded(args.D), dt_bias = bounded(args.dt_bias),
                state_in = bounded(args.state_in), gy = bounded(grad_y), grad_state = bounded(grad_state_out);
  const Shape state_shape = is_complex ? Shape{slots, d, n, 2} : Shape{slots, d, n};
  const BoundedTensor no_state{state_shape, std::vector<Bounded>(static_cast<std::size_t>(state_shape.numel()))};
  BoundedScan out{zeros_like(u), no_state,      zeros_like(u), zeros_like(dt),      zeros_like(A),       zeros_like(B),
                  zeros_like(C), zeros_like(D), zeros_like(z), zeros_like(dt_bias), zeros_like(state_in)};
  using In = const Bounded;
  SelectiveScanParams<Bounded> p;
  p.d = d, p.n = n, p.is_complex = is_complex, p.dt_softplus = args.dt_softplus, p.reverse = args.reverse;
  p.u = detail::view<3, In>(u.numbers, {b, l, d});
  p.dt = detail::view<3, In>(dt.numbers, {b, l, d});
  p.z = detail::view<3, In>(z.numbers, {b, l, d});
  p.A = detail::view<2, In>(A.numbers, {d, width});
  p.B = detail::coefficients<In>(B, b, l, width, is_complex);
  p.C = detail::coefficients<In>(C, b, l, width, is_complex);
  p.D = D.numbers.empty() ? nullptr : D.numbers.data();
  p.dt_bias = dt_bias.numbers.empty() ? nullptr : dt_bias.numbers.data();
  if (resets.defined()) p.resets = {resets.data<std::uint8_t>(), {b, l}, {l, 1}};
  p.sequences = sequences.data();
  p.num_sequences = slots;
  p.state_in = detail::view<3, In>(state_in.numbers, {slots, d, width});
  p.state_out = detail::view<3, Bounded>(out.state_out.numbers, {slots, d, width});
  p.y = detail::view<3, Bounded>(out.y.numbers, {b, l, d});
  reference::selective_scan_forward(p);
  SelectiveScanGradParams<Bounded> g;
  g.grad_y = detail::view<3, In>(gy.numbers, {b, l, d});
  g.grad_state_out = detail::view<3, In>(grad_state.numbers, {slots, d, width});
  g.grad_u = detail::view<3, Bounded>(out.u.numbers, {b, l, d});
  g.grad_dt = detail::view<3, Bounded>(out.dt.numbers, {b, l, d});
  g.grad_z = detail::view<3, Bounded>(out.z.numbers, {b, l, d});
  g.grad_A = detail::view<2, Bounded>(out.A.numbers, {d, width});
  g.grad_B = detail::coefficients<Bounded>(out.B, b, l, width, is_complex);
  g.grad_C = detail::coefficients<Bounded>(out.C, b, l, width, is_complex);
  g.grad_D = out.D.numbers.empty() ? nullptr : out.D.numbers.data();
  g.grad_dt_bias = out.dt_bias.numbers.empty() ? nullptr : out.dt_bias.numbers.data();
  g.grad_state_in = detail::view<3, Bounded>(out.state_in.numbers, {slots, d, width});
  reference::selective_scan_backward(p, g);
  return out;
}

}  // namespace coluber::testing
