// copy, neg_exp and multiply: element by element, split over rows so that all threads share the memory traffic.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "coluber/ops.h"
#include "core/threads.h"
#include "ops/op_check.h"

namespace coluber::ops {
namespace {

constexpr std::int64_t kBytesPerTask = 256 << 10;  // below this one thread is as fast as two

// Slices of the first axis, about kBytesPerTask each; the result does not depend on how many there are.
template <class F>
void for_slices(Context& ctx, const Tensor& t, F&& f) {
  if (t.numel() == 0) return;
  if (t.rank() == 0) return f(0, 0, true);
  const std::int64_t rows = t.size(0);
  const std::int64_t tasks = std::clamp<std::int64_t>(t.size_bytes() / kBytesPerTask, 1, rows);
  ctx.threads().run(tasks, [&](std::int64_t task) { f(rows * task / tasks, rows * (task + 1) / tasks, false); });
}

void check_same(std::string_view op, const Tensor& a, const Tensor& b) {
  check_dtype(op, "second tensor", b, a.dtype());
  if (!(a.shape() == b.shape())) {
    refuse_value(ErrorCode::kInvalidArgument, op, "shape", a.shape().to_string(), b.shape().to_string());
  }
}

// out = f(a) or f(a, b) over contiguous f32 or f64 tensors.
template <class F>
Tensor map(Context& ctx, std::string_view op, const Tensor& a, F&& f) {
  if (a.dtype() != DType::kF32 && a.dtype() != DType::kF64) {
    refuse_value(ErrorCode::kInvalidArgument, op, "dtype", "f32 or f64", dtype_name(a.dtype()));
  }
  const Tensor out = Tensor::empty(a.shape(), a.dtype());
  const std::int64_t tasks = std::max<std::int64_t>(1, a.size_bytes() / kBytesPerTask);
  ctx.threads().run(tasks, [&](std::int64_t task) {
    const std::int64_t begin = a.numel() * task / tasks, end = a.numel() * (task + 1) / tasks;
    a.dtype() == DType::kF32 ? f(out.data<float>(), begin, end) : f(out.data<double>(), begin, end);
  });
  return out;
}

}  // namespace

void copy(Context& ctx, const Tensor& to, const Tensor& from) {
  check_same("copy", to, from);
  for_slices(ctx, to, [&](std::int64_t begin, std::int64_t end, bool scalar) {
    scalar ? to.copy_from(from) : to.slice(0, begin, end).copy_from(from.slice(0, begin, end));
  });
}

Tensor neg_exp(Context& ctx, const Tensor& x) {
  const Tensor in = x.contiguous();
  return map(ctx, "neg_exp", in, [&](auto* out, std::int64_t begin, std::int64_t end) {
    using T = std::remove_pointer_t<decltype(out)>;
    for (std::int64_t i = begin; i < end; ++i) out[i] = -std::exp(in.data<T>()[i]);
  });
}

Tensor multiply(Context& ctx, const Tensor& a, const Tensor& b) {
  check_same("multiply", a, b);
  const Tensor x = a.contiguous(), y = b.contiguous();
  return map(ctx, "multiply", x, [&](auto* out, std::int64_t begin, std::int64_t end) {
    using T = std::remove_pointer_t<decltype(out)>;
    for (std::int64_t i = begin; i < end; ++i) out[i] = x.data<T>()[i] * y.data<T>()[i];
  });
}

}  // namespace coluber::ops
