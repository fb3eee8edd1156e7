// copy, neg_exp and multiply: element by element, split over rows so that all threads share the memory traffic.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "coluber/ops.h"
#include "core/threads.h"
#include "kernels/elementwise.h"
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

// Rows are contiguous: parts of split and their gradients.
void copy_rows(Context& ctx, const Tensor& to, const Tensor& from) {
  const std::int64_t row_bytes = to.size(-1) * dtype_size(to.dtype());
  const std::int64_t rows = row_bytes == 0 ? 0 : to.size_bytes() / row_bytes;
  if (rows == 0) return;
  auto row_of = [&](const Tensor& t, std::int64_t row) {
    std::int64_t offset = 0;
    for (int axis = t.rank() - 2; axis >= 0; row /= t.size(axis--)) offset += row % t.size(axis) * t.stride(axis);
    return static_cast<char*>(t.raw()) + offset * dtype_size(t.dtype());
  };
  const std::int64_t tasks = std::clamp<std::int64_t>(to.size_bytes() / kBytesPerTask, 1, rows);
  ctx.threads().run(tasks, [&](std::int64_t task) {
    for (std::int64_t row = rows * task / tasks; row < rows * (task + 1) / tasks; ++row)
      std::memcpy(row_of(to, row), row_of(from, row), static_cast<std::size_t>(row_bytes));
  });
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
  if (!to.device().is_cpu() || !from.device().is_cpu()) return to.copy_from(from);
  if (to.dtype() == from.dtype() && to.rank() > 0 && to.stride(-1) == 1 && from.stride(-1) == 1) {
    return copy_rows(ctx, to, from);
  }
  for_slices(ctx, to, [&](std::int64_t begin, std::int64_t end, bool scalar) {
    scalar ? to.copy_from(from) : to.slice(0, begin, end).copy_from(from.slice(0, begin, end));
  });
}

Tensor neg_exp(Context& ctx, const Tensor& x) {
  const Tensor in = x.contiguous();
  if (!in.device().is_cpu()) {
    check_dtype("neg_exp", "x", in, DType::kF32);
    const Tensor out = Tensor::empty(in.shape(), DType::kF32, in.device());
    cuda::neg_exp(cuda::current_stream(in.device().index), in.data<float>(), out.data<float>(), in.numel());
    return out;
  }
  if (in.dtype() == DType::kF32 && ctx.algorithm() != Algorithm::kReference) {
    const Tensor out = Tensor::empty(in.shape(), DType::kF32), row = in.reshape({1, in.numel()});
    cpu::neg_exp(ctx.threads(), view_of<const float, 2>(row), view_of<float, 2>(out.reshape({1, in.numel()})));
    return out;
  }
  return map(ctx, "neg_exp", in, [&](auto* out, std::int64_t begin, std::int64_t end) {
    using T = std::remove_pointer_t<decltype(out)>;
    for (std::int64_t i = begin; i < end; ++i) out[i] = -std::exp(in.data<T>()[i]);
  });
}

Tensor multiply(Context& ctx, const Tensor& a, const Tensor& b) {
  check_same("multiply", a, b);
  check_device("multiply", "second tensor", b, a.device());
  const Tensor x = a.contiguous(), y = b.contiguous();
  if (!x.device().is_cpu()) {
    check_storage("multiply", "first tensor", x);
    const Tensor out = Tensor::empty(x.shape(), x.dtype(), x.device());
    with_storage(x.dtype(), [&](auto storage) {
      using T = decltype(storage);
      cuda::multiply(cuda::current_stream(x.device().index), static_cast<const T*>(x.data<T>()),
                     static_cast<const T*>(y.data<T>()), out.data<T>(), x.numel());
    });
    return out;
  }
  return map(ctx, "multiply", x, [&](auto* out, std::int64_t begin, std::int64_t end) {
    using T = std::remove_pointer_t<decltype(out)>;
    for (std::int64_t i = begin; i < end; ++i) out[i] = x.data<T>()[i] * y.data<T>()[i];
  });
}

}  // namespace coluber::ops
