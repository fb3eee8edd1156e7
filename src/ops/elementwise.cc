// add_inplace, scale_inplace and sum_of_squares: checks, layouts and the choice of kernel.
#include "kernels/elementwise.h"

#include <vector>

#include "coluber/ops.h"
#include "kernels/reference/elementwise.h"
#include "ops/elementwise.h"
#include "ops/linear.h"
#include "ops/op_check.h"

namespace coluber::ops {
namespace {

void check_float(std::string_view op, std::string_view what, const Tensor& t) {
  if (!t.defined()) refuse_value(ErrorCode::kInvalidArgument, op, what, "a tensor", "no tensor");
  check_storage(op, what, t);
}

void check_owns_elements(std::string_view op, std::string_view what, const Tensor& t) {
  for (int axis = 0; axis < t.rank(); ++axis) {
    if (t.size(axis) > 1 && t.stride(axis) == 0) {
      refuse_value(ErrorCode::kInvalidArgument, op, what, "elements of its own", "an axis of stride 0");
    }
  }
}

// (rows,columns) of any rank; a contiguous tensor is one row.
Tensor rows_of(const Tensor& t) {
  if (t.is_contiguous()) return t.reshape({1, t.numel()});
  return as_matrix(t);
}

// Calls f(target) with `t` as contiguous rows; when that took a copy, the result is written back.
template <class F>
void change_in_place(const Tensor& t, F&& f) {
  const Tensor rows = rows_of(t);
  f(rows);
  if (rows.raw() == t.raw()) return;
  t.copy_from(rows.reshape(t.shape()));
}

}  // namespace

void add_inplace(Context& ctx, const Tensor& accumulator, const Tensor& x, double scale) {
  constexpr std::string_view kOp = "add_inplace";
  check_float(kOp, "accumulator", accumulator);
  check_float(kOp, "x", x);
  check_dtype(kOp, "x", x, accumulator.dtype());
  check_device(kOp, "x", x, accumulator.device());
  if (!(x.shape() == accumulator.shape())) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "x", "shape " + accumulator.shape().to_string(),
                 x.shape().to_string());
  }
  check_owns_elements(kOp, "accumulator", accumulator);
  if (x.numel() == 0) return;
  change_in_place(accumulator, [&](const Tensor& to) {
    Tensor from = rows_of(x), into = to;
    if (!(from.shape() == into.shape())) {  // one of them is a single row
      from = as_matrix(x);
      into = into.is_contiguous() ? into.reshape(from.shape()) : into;
    }
    if (!(from.shape() == into.shape())) from = from.contiguous().reshape(into.shape());
    if (!x.device().is_cpu()) {
      with_storage(x.dtype(), [&](auto storage) {
        using T = decltype(storage);
        cuda::add(cuda::current_stream(x.device().index), view_of<T, 2>(into), view_of<const T, 2>(from),
                  static_cast<float>(scale));
      });
    } else if (x.dtype() == DType::kF64) {
      reference::add(view_of<double, 2>(into), view_of<const double, 2>(from), scale);
    } else if (takes_reference(ctx, x.dtype())) {
      reference::add(view_of<float, 2>(into), view_of<const float, 2>(from), static_cast<float>(scale));
    } else {
      cpu::add(ctx.threads(), view_of<float, 2>(into), view_of<const float, 2>(from), static_cast<float>(scale));
    }
  });
}

void scale_inplace(Context& ctx, const Tensor& x, double scale) {
  check_float("scale_inplace", "x", x);
  check_owns_elements("scale_inplace", "x", x);
  if (x.numel() == 0) return;
  change_in_place(x, [&](const Tensor& to) {
    if (!x.device().is_cpu()) {
      with_storage(x.dtype(), [&](auto storage) {
        cuda::scale(cuda::current_stream(x.device().index), view_of<decltype(storage), 2>(to),
                    static_cast<float>(scale));
      });
    } else if (x.dtype() == DType::kF64) {
      reference::scale(view_of<double, 2>(to), scale);
    } else if (takes_reference(ctx, x.dtype())) {
      reference::scale(view_of<float, 2>(to), static_cast<float>(scale));
    } else {
      cpu::scale(ctx.threads(), view_of<float, 2>(to), static_cast<float>(scale));
    }
  });
}

double sum_of_squares(Context& ctx, const Tensor& x) {
  return sum_of_squares(ctx, std::span(&x, 1));
}

void queue_sum_of_squares(const std::vector<Tensor>& tensors, const Tensor& sum) {
  std::vector<Tensor> kept;  // copies of those with gaps
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    with_storage(dtype, [&](auto storage) {
      using T = decltype(storage);
      std::vector<std::span<const T>> spans;
      for (const Tensor& x : tensors) {
        check_device("sum_of_squares", "x", x, sum.device());
        if (x.dtype() != dtype) continue;
        const Tensor& whole = kept.emplace_back(x.contiguous());
        spans.emplace_back(whole.data<T>(), static_cast<std::size_t>(whole.numel()));
      }
      cuda::sum_of_squares<T>(cuda::current_stream(sum.device().index), spans, sum.data<double>());
    });
  }
}

namespace {

// Of tensors on one GPU: one wait, however many there are.
double device_sum_of_squares(const std::vector<Tensor>& tensors) {
  const Tensor sum = Tensor::zeros({}, DType::kF64, tensors.front().device());
  queue_sum_of_squares(tensors, sum);
  return sum.at({});
}

}  // namespace

double sum_of_squares(Context& ctx, std::span<const Tensor> tensors) {
  double sum = 0;
  std::vector<Tensor> on_device;
  for (const Tensor& x : tensors) {
    check_float("sum_of_squares", "x", x);
    if (x.numel() == 0) continue;
    if (!x.device().is_cpu()) {
      on_device.push_back(x);
      continue;
    }
    const Tensor rows = rows_of(x);
    if (x.dtype() == DType::kF64) {
      sum += reference::sum_of_squares(view_of<const double, 2>(rows));
    } else if (takes_reference(ctx, x.dtype())) {
      sum += reference::sum_of_squares(view_of<const float, 2>(rows));
    } else {
      sum += cpu::sum_of_squares(ctx.threads(), ctx.scratch(), view_of<const float, 2>(rows));
    }
  }
  return on_device.empty() ? sum : sum + device_sum_of_squares(on_device);
}

}  // namespace coluber::ops
