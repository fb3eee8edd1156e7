// add_inplace, scale_inplace and sum_of_squares: checks, layouts and the choice of kernel.
#include "kernels/elementwise.h"

#include "coluber/ops.h"
#include "kernels/reference/elementwise.h"
#include "ops/linear.h"
#include "ops/op_check.h"

namespace coluber::ops {
namespace {

void check_float(std::string_view op, std::string_view what, const Tensor& t) {
  if (!t.defined()) refuse_value(ErrorCode::kInvalidArgument, op, what, "a tensor", "no tensor");
  if (t.dtype() != DType::kF32 && t.dtype() != DType::kF64) {
    refuse_value(ErrorCode::kInvalidArgument, op, join("dtype of ", what), "f32 or f64", dtype_name(t.dtype()));
  }
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
    if (x.dtype() == DType::kF64) {
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
    if (x.dtype() == DType::kF64) {
      reference::scale(view_of<double, 2>(to), scale);
    } else if (takes_reference(ctx, x.dtype())) {
      reference::scale(view_of<float, 2>(to), static_cast<float>(scale));
    } else {
      cpu::scale(ctx.threads(), view_of<float, 2>(to), static_cast<float>(scale));
    }
  });
}

double sum_of_squares(Context& ctx, const Tensor& x) {
  check_float("sum_of_squares", "x", x);
  if (x.numel() == 0) return 0;
  const Tensor rows = rows_of(x);
  if (x.dtype() == DType::kF64) return reference::sum_of_squares(view_of<const double, 2>(rows));
  if (takes_reference(ctx, x.dtype())) return reference::sum_of_squares(view_of<const float, 2>(rows));
  return cpu::sum_of_squares(ctx.threads(), ctx.scratch(), view_of<const float, 2>(rows));
}

}  // namespace coluber::ops
