#include "coluber/tensor.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/check.h"
#include "core/cuda.h"
#include "core/memory.h"

namespace coluber {
namespace {

Shape row_major_strides(const Shape& shape) {
  Shape strides = shape;
  std::int64_t step = 1;
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    strides[axis] = step;
    step *= std::max<std::int64_t>(shape[axis], 1);
  }
  return strides;
}

// numel * element size without overflow, or a refusal.
std::int64_t checked_size_bytes(const Shape& shape, DType dtype) {
  std::int64_t bytes = dtype_size(dtype);
  for (std::int64_t extent : shape) {
    if (extent < 0) {
      refuse_value(ErrorCode::kInvalidArgument, "tensor", "shape", "extents of 0 or more", shape.to_string());
    }
    if (__builtin_mul_overflow(bytes, extent, &bytes)) {
      refuse_value(ErrorCode::kInvalidArgument, "tensor", "shape", "fewer than 2^63 bytes", shape.to_string());
    }
  }
  return bytes;
}

int normalise_axis(int axis, int rank) {
  const int a = axis < 0 ? axis + rank : axis;
  if (a < 0 || a >= rank) {
    refuse_value(ErrorCode::kInvalidArgument, "tensor", "axis", join("0 to ", rank - 1), std::to_string(axis));
  }
  return a;
}

}  // namespace

Shape::Shape(std::span<const std::int64_t> extents) : rank_(static_cast<int>(extents.size())) {
  if (rank_ > kMaxRank) {
    refuse_value(ErrorCode::kInvalidArgument, "tensor", "rank", join("at most ", kMaxRank), std::to_string(rank_));
  }
  std::copy(extents.begin(), extents.end(), extents_.begin());
}

std::int64_t Shape::numel() const {
  std::int64_t product = 1;
  for (std::int64_t extent : *this) product *= extent;
  return product;
}

std::string Shape::to_string() const {
  std::string text = "(";
  for (int axis = 0; axis < rank_; ++axis) {
    if (axis > 0) text += ", ";
    text += std::to_string((*this)[axis]);
  }
  return text + ")";
}

bool operator==(const Shape& a, const Shape& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

Tensor Tensor::empty(const Shape& shape, DType dtype, Device device) {
  const std::int64_t bytes = checked_size_bytes(shape, dtype);
  std::shared_ptr<void> memory = allocate(std::max<std::int64_t>(bytes, 1), device, dtype);
  void* data = memory.get();
  return from_memory(data, shape, dtype, std::move(memory), device);
}

Tensor Tensor::zeros(const Shape& shape, DType dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  if (device.is_cpu())
    std::memset(t.data_, 0, static_cast<std::size_t>(t.size_bytes()));
  else
    cuda::fill_bytes(t.data_, device.index, 0, t.size_bytes());
  return t;
}

Tensor Tensor::full(const Shape& shape, double value, DType dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  t.fill(value);
  return t;
}

Tensor Tensor::from_memory(void* data, const Shape& shape, DType dtype, std::shared_ptr<void> owner, Device device) {
  checked_size_bytes(shape, dtype);
  Tensor t;
  t.data_ = data;
  t.shape_ = shape;
  t.strides_ = row_major_strides(shape);
  t.dtype_ = dtype;
  t.device_ = device;
  t.owner_ = std::move(owner);
  t.defined_ = true;
  return t;
}

Tensor Tensor::copy_of(const void* data, std::size_t count, const Shape& shape, DType dtype) {
  checked_size_bytes(shape, dtype);
  check_equal("tensor", "number of values for shape " + shape.to_string(), shape.numel(),
              static_cast<long long>(count));
  Tensor t = empty(shape, dtype);
  if (count > 0) std::memcpy(t.data_, data, static_cast<std::size_t>(t.size_bytes()));
  return t;
}

bool Tensor::is_contiguous() const {
  std::int64_t step = 1;
  for (int axis = rank() - 1; axis >= 0; --axis) {
    if (shape_[axis] != 1 && strides_[axis] != step) return numel() == 0;
    step *= shape_[axis];
  }
  return true;
}

void Tensor::require_dtype(DType dtype) const {
  if (dtype_ == dtype) return;
  refuse_value(ErrorCode::kInvalidArgument, "tensor", "dtype", dtype_name(dtype), dtype_name(dtype_));
}

Tensor Tensor::reshape(const Shape& shape) const {
  checked_size_bytes(shape, dtype_);
  check_equal("tensor", "elements of reshape " + shape_.to_string() + " -> " + shape.to_string(), numel(),
              shape.numel());
  if (!is_contiguous()) {
    refuse_value(ErrorCode::kInvalidArgument, "tensor", "reshape", "a contiguous tensor",
                 "strides " + strides_.to_string(), "call contiguous() first");
  }
  Tensor t = *this;
  t.shape_ = shape;
  t.strides_ = row_major_strides(shape);
  return t;
}

Tensor Tensor::slice(int axis, std::int64_t begin, std::int64_t end) const {
  axis = normalise_axis(axis, rank());
  if (begin < 0 || end < begin || end > shape_[axis]) {
    refuse_value(ErrorCode::kInvalidArgument, "tensor", "slice", join("0 <= begin <= end <= ", shape_[axis]),
                 join(begin, " to ", end));
  }
  Tensor t = *this;
  t.data_ = static_cast<std::byte*>(data_) + begin * strides_[axis] * dtype_size(dtype_);
  t.shape_[axis] = end - begin;
  return t;
}

Tensor Tensor::select(int axis, std::int64_t index) const {
  axis = normalise_axis(axis, rank());
  Tensor t = slice(axis, index, index + 1);
  std::array<std::int64_t, kMaxRank> extents{}, strides{};
  std::size_t n = 0;
  for (int a = 0; a < rank(); ++a) {
    if (a == axis) continue;
    extents[n] = shape_[a];
    strides[n++] = strides_[a];
  }
  t.shape_ = Shape(std::span<const std::int64_t>(extents.data(), n));
  t.strides_ = Shape(std::span<const std::int64_t>(strides.data(), n));
  return t;
}

Tensor Tensor::transpose(int axis0, int axis1) const {
  axis0 = normalise_axis(axis0, rank());
  axis1 = normalise_axis(axis1, rank());
  Tensor t = *this;
  std::swap(t.shape_[axis0], t.shape_[axis1]);
  std::swap(t.strides_[axis0], t.strides_[axis1]);
  return t;
}

Tensor Tensor::permute(std::initializer_list<int> axes) const {
  check_equal("tensor", "axes of permute", rank(), static_cast<long long>(axes.size()));
  Tensor t = *this;
  unsigned seen = 0;
  int i = 0;
  for (int axis : axes) {
    axis = normalise_axis(axis, rank());
    seen |= 1u << axis;
    t.shape_[i] = shape_[axis];
    t.strides_[i++] = strides_[axis];
  }
  if (seen + 1 != 1u << rank()) {
    refuse(ErrorCode::kInvalidArgument, "tensor", "permute: expected every axis once, got one twice");
  }
  return t;
}

Tensor Tensor::unsqueeze(int axis) const {
  axis = normalise_axis(axis, rank() + 1);
  std::array<std::int64_t, kMaxRank + 1> extents{}, strides{};
  std::size_t n = 0;
  for (int a = 0; a <= rank(); ++a) {
    if (a == axis) {
      extents[n] = 1;
      strides[n++] = a < rank() ? shape_[a] * strides_[a] : 1;
    }
    if (a == rank()) break;
    extents[n] = shape_[a];
    strides[n++] = strides_[a];
  }
  Tensor t = *this;
  t.shape_ = Shape(std::span<const std::int64_t>(extents.data(), n));
  t.strides_ = Shape(std::span<const std::int64_t>(strides.data(), n));
  return t;
}

Tensor Tensor::expand(int axis, std::int64_t extent) const {
  axis = normalise_axis(axis, rank());
  if (shape_[axis] == extent) return *this;
  check_equal("tensor", "extent of an expanded axis", 1, shape_[axis]);
  if (extent < 0)
    refuse_value(ErrorCode::kInvalidArgument, "tensor", "extent to expand to", "0 or more", std::to_string(extent));
  Tensor t = *this;
  t.shape_[axis] = extent;
  t.strides_[axis] = 0;
  return t;
}

Tensor Tensor::with_strides(const Shape& shape, const Shape& strides, std::int64_t offset) const {
  check_equal("tensor", "rank of strides", shape.rank(), strides.rank());
  Tensor t = *this;
  t.data_ = static_cast<std::byte*>(data_) + offset * dtype_size(dtype_);
  t.shape_ = shape;
  t.strides_ = strides;
  return t;
}

}  // namespace coluber
