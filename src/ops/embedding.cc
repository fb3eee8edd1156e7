// embedding: checks, layouts and the choice of kernel.
#include "kernels/embedding.h"

#include "coluber/ops.h"
#include "kernels/reference/embedding.h"
#include "ops/ids.h"
#include "ops/linear.h"
#include "ops/op_check.h"

namespace coluber::ops {
namespace {

constexpr std::string_view kOp = "embedding";

void check_table(std::string_view name, const Tensor& table) {
  check_shape(kOp, name, table, {-1, -1});
  if (dtype_is_float(table.dtype())) return;
  refuse_value(ErrorCode::kInvalidArgument, kOp, join("dtype of ", name), "f32, f64, bf16 or f16",
               dtype_name(table.dtype()));
}

// ids as (tok) on `device`. Those from the CPU are checked, every one in [0, v); those on a GPU are not, since looking
// at them would wait for it: rows of ids that are none read as NaN.
Tensor checked_ids(const Tensor& ids, std::int64_t v, Device device) {
  if (!ids.defined()) refuse_value(ErrorCode::kInvalidArgument, kOp, "ids", "a tensor", "no tensor");
  check_dtype(kOp, "ids", ids, DType::kI32);
  const Tensor flat = ids.contiguous().reshape({ids.numel()});
  if (!flat.device().is_cpu()) {
    check_device(kOp, "ids", flat, device);
    return flat;
  }
  check_ids(flat, v);
  return flat.to(device);
}

Shape with_columns(const Shape& shape, std::int64_t m) {
  check_equal(kOp, "axes of ids that leave room for one more", 1, shape.rank() < kMaxRank ? 1 : 0);
  std::array<std::int64_t, kMaxRank> extents{};
  std::copy(shape.begin(), shape.end(), extents.begin());
  extents[static_cast<std::size_t>(shape.rank())] = m;
  return Shape(std::span<const std::int64_t>(extents.data(), static_cast<std::size_t>(shape.rank()) + 1));
}

}  // namespace

void check_ids(const Tensor& ids, std::int64_t v) {
  const std::int32_t* id = ids.data<std::int32_t>();
  for (std::int64_t i = 0; i < ids.numel(); ++i) {
    if (id[i] >= 0 && id[i] < v) continue;
    refuse_value(ErrorCode::kInvalidArgument, kOp, join("id at position ", i),
                 v > 0 ? join("0 to ", v - 1) : std::string("none"), std::to_string(id[i]),
                 join("the table has ", v, " rows"));
  }
}

Tensor embedding_forward(Context& ctx, const Tensor& ids, const Tensor& table, DType out) {
  check_table("table", table);
  const Device device = table.device();
  const std::int64_t m = table.size(1);
  const Tensor y = Tensor::empty(with_columns(ids.shape(), m), out, device);
  check_storage(kOp, "the result", y);
  const Tensor flat = checked_ids(ids, table.size(0), device);
  if (y.numel() == 0) return y;
  const Tensor rows = as_matrix(table);
  auto params = [&](auto zero) {
    using T = decltype(zero);
    return EmbeddingParams<T>{
        flat.numel(), m, flat.data<std::int32_t>(), {rows.raw(), rows.dtype(), rows.stride(0)}, y.data<T>()};
  };
  if (!device.is_cpu()) {
    with_storage(out, [&](auto storage) {
      cuda::embedding_forward(cuda::current_stream(device.index), params(storage), table.size(0));
    });
  } else if (out == DType::kF64) {
    reference::embedding_forward(params(0.0));
  } else if (takes_reference(ctx, out)) {
    reference::embedding_forward(params(0.0f));
  } else {
    cpu::embedding_forward(ctx.threads(), params(0.0f));
  }
  return y;
}

void embedding_backward(Context& ctx, const Tensor& ids, const Tensor& grad_y, const Tensor& grad_table) {
  check_shape(kOp, "grad_table", grad_table, {-1, -1});
  if (grad_table.dtype() != DType::kF32 && grad_table.dtype() != DType::kF64) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "dtype of grad_table", "f32 or f64", dtype_name(grad_table.dtype()));
  }
  const std::int64_t v = grad_table.size(0), m = grad_table.size(1);
  const Tensor flat = checked_ids(ids, v, grad_table.device());
  const Shape shape = with_columns(ids.shape(), m);
  if (!(grad_y.defined() && grad_y.shape() == shape)) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "grad_y", "shape " + shape.to_string(),
                 grad_y.defined() ? grad_y.shape().to_string() : "no tensor");
  }
  const Device device = grad_table.device();
  check_device(kOp, "grad_y", grad_y, device);
  if (device.is_cpu())
    check_dtype(kOp, "grad_y", grad_y, grad_table.dtype());
  else
    check_dtype(kOp, "grad_table", grad_table, DType::kF32);
  check_storage(kOp, "grad_y", grad_y);
  if (m > 1 && grad_table.stride(1) != 1) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "grad_table", "contiguous rows",
                 "strides " + grad_table.strides().to_string());
  }
  if (grad_y.numel() == 0) return;
  const Tensor rows = as_matrix(grad_y);
  auto params = [&](auto storage, auto parameter_type) {
    using T = decltype(storage);
    using P = decltype(parameter_type);
    return EmbeddingGradParams<T, P>{
        flat.numel(), v, m, flat.data<std::int32_t>(), view_of<const T, 2>(rows), view_of<P, 2>(grad_table)};
  };
  if (!device.is_cpu()) {
    with_storage(grad_y.dtype(), [&](auto storage) {
      cuda::embedding_backward(cuda::current_stream(device.index), params(storage, 0.0f));
    });
  } else if (grad_table.dtype() == DType::kF64) {
    reference::embedding_backward(params(0.0, 0.0));
  } else if (takes_reference(ctx, DType::kF32)) {
    reference::embedding_backward(params(0.0f, 0.0f));
  } else {
    cpu::embedding_backward(ctx.threads(), ctx.scratch(), params(0.0f, 0.0f));
  }
}

}  // namespace coluber::ops
