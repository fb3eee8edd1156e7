// Tensor: a typed, strided view of memory with shared ownership.
//
// A Tensor is a handle, as cheap to copy as a pointer: copies and views see the same elements, and the memory is
// returned when the last handle goes. Sizes, strides and offsets are int64 and count elements, so arrays beyond 2^31
// elements work. Strides may be zero (broadcast) or negative (reversed); ops state what they accept.
#pragma once

#include <array>
#include <cstddef>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "coluber/device.h"
#include "coluber/dtype.h"

namespace coluber {

inline constexpr int kMaxRank = 6;

// Extents of up to kMaxRank axes, slowest first.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> extents) : Shape(std::span(extents.begin(), extents.size())) {}
  explicit Shape(std::span<const std::int64_t> extents);

  int rank() const { return rank_; }
  std::int64_t operator[](int axis) const { return extents_[static_cast<std::size_t>(axis)]; }
  std::int64_t& operator[](int axis) { return extents_[static_cast<std::size_t>(axis)]; }
  std::int64_t numel() const;  // product of the extents; 1 for rank 0
  const std::int64_t* begin() const { return extents_.data(); }
  const std::int64_t* end() const { return extents_.data() + rank_; }
  std::string to_string() const;  // "(8, 512, 256)"

  friend bool operator==(const Shape& a, const Shape& b);

 private:
  std::array<std::int64_t, kMaxRank> extents_{};
  int rank_ = 0;
};

class Tensor {
 public:
  Tensor() = default;  // undefined: defined() is false; used for absent optional inputs

  // New memory, 64-byte aligned, uninitialised / zero. Throws kInvalidArgument on negative or overflowing sizes.
  static Tensor empty(const Shape& shape, DType dtype, Device device = {});
  static Tensor zeros(const Shape& shape, DType dtype, Device device = {});
  static Tensor full(const Shape& shape, double value, DType dtype, Device device = {});

  // A contiguous view of memory of somebody else's; `owner`, when given, is held while any view of it lives.
  static Tensor from_memory(void* data, const Shape& shape, DType dtype, std::shared_ptr<void> owner = {},
                            Device device = {});

  // A copy of `values`, in row-major order.
  template <class T>
  static Tensor of(const Shape& shape, const std::vector<T>& values) {
    return copy_of(values.data(), values.size(), shape, dtype_of<T>::value);
  }

  bool defined() const { return defined_; }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  const Shape& shape() const { return shape_; }
  const Shape& strides() const { return strides_; }  // in elements
  int rank() const { return shape_.rank(); }
  std::int64_t size(int axis) const { return shape_[axis < 0 ? axis + rank() : axis]; }
  std::int64_t stride(int axis) const { return strides_[axis < 0 ? axis + rank() : axis]; }
  std::int64_t numel() const { return shape_.numel(); }  // 0 when undefined
  std::int64_t size_bytes() const { return numel() * dtype_size(dtype_); }
  bool is_contiguous() const;
  const std::shared_ptr<void>& memory() const { return owner_; }  // what is held; null where it is borrowed
  // No other handle shares the memory, and it is not borrowed: writing to it surprises nobody.
  bool is_sole_owner() const { return owner_ != nullptr && owner_.use_count() == 1; }

  // Pointer to the first element, in the memory of device(); the typed form throws kInvalidArgument when T is not the
  // dtype.
  void* raw() const { return data_; }
  template <class T>
  T* data() const {
    require_dtype(dtype_of<T>::value);
    return static_cast<T*>(data_);
  }

  // Views: no element is copied.
  Tensor reshape(const Shape& shape) const;                            // contiguous tensors only
  Tensor slice(int axis, std::int64_t begin, std::int64_t end) const;  // [begin, end) of one axis
  Tensor select(int axis, std::int64_t index) const;                   // one index; the axis goes
  Tensor transpose(int axis0, int axis1) const;
  Tensor permute(std::initializer_list<int> axes) const;
  Tensor unsqueeze(int axis) const;                    // a new axis of extent 1
  Tensor expand(int axis, std::int64_t extent) const;  // extent 1 -> n by stride 0
  Tensor with_strides(const Shape& shape, const Shape& strides, std::int64_t offset = 0) const;

  // Copies.
  Tensor clone() const;                        // contiguous, new memory
  Tensor contiguous() const;                   // itself when contiguous already
  Tensor to(DType dtype) const;                // itself when of that dtype; floats round to nearest even
  Tensor to(Device device) const;              // itself when there already
  void copy_from(const Tensor& source) const;  // same shape; converts between dtypes and devices
  void fill(double value) const;

  // Element by element access for tests and small things; any float or integer dtype, any device.
  double at(std::initializer_list<std::int64_t> index) const;
  void set(std::initializer_list<std::int64_t> index, double value) const;

 private:
  static Tensor copy_of(const void* data, std::size_t count, const Shape& shape, DType dtype);
  void require_dtype(DType dtype) const;
  std::int64_t offset_of(std::initializer_list<std::int64_t> index) const;
  Tensor element(std::initializer_list<std::int64_t> index) const;
  void copy_across(const Tensor& source) const;

  void* data_ = nullptr;
  Shape shape_{0};
  Shape strides_{1};
  DType dtype_ = DType::kF32;
  Device device_;
  bool defined_ = false;
  std::shared_ptr<void> owner_;
};

}  // namespace coluber
