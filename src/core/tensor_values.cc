// What is in a tensor: copies, conversions between dtypes, single elements.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "coluber/tensor.h"
#include "core/check.h"
#include "core/cuda.h"
#include "core/visit_dtype.h"

namespace coluber {
namespace {

template <class T>
double load(const void* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  if constexpr (std::is_same_v<T, bfloat16> || std::is_same_v<T, float16>)
    return static_cast<float>(value);
  else
    return static_cast<double>(value);
}

// double -> float with the last bit set when that is not exact: the float then stands on the same side of every number
// of 16 bits, and of every middle between two, as the double, so that rounding it once more gives the nearest.
float round_to_odd(double value) {
  const auto nearest = static_cast<float>(value);
  if (static_cast<double>(nearest) == value || std::isnan(value)) return nearest;
  auto bits = std::bit_cast<std::uint32_t>(nearest);
  if (std::abs(static_cast<double>(nearest)) > std::abs(value)) --bits;  // towards zero
  return std::bit_cast<float>(bits | 1u);
}

template <class T>
void store(void* p, double value) {
  T out;
  if constexpr (std::is_same_v<T, bfloat16> || std::is_same_v<T, float16>)
    out = T(round_to_odd(value));
  else
    out = static_cast<T>(value);
  std::memcpy(p, &out, sizeof out);
}

template <class To, class From>
To convert_element(From value) {
  if constexpr (std::is_same_v<To, From>)
    return value;
  else if constexpr (std::is_integral_v<To> && std::is_integral_v<From>)
    return static_cast<To>(value);
  else {
    To out;
    store<To>(&out, load<From>(&value));
    return out;
  }
}

// Walks all index tuples but the last axis; f(source offset, destination offset) handles one row.
template <class F>
void for_each_row(const Shape& shape, const Shape& a, const Shape& b, F&& f) {
  if (shape.numel() == 0) return;
  const int outer = shape.rank() - 1;
  std::array<std::int64_t, kMaxRank> index{};
  std::int64_t offset_a = 0, offset_b = 0;
  for (;;) {
    f(offset_a, offset_b);
    int axis = outer - 1;
    for (; axis >= 0; --axis) {
      auto& i = index[static_cast<std::size_t>(axis)];
      offset_a += a[axis];
      offset_b += b[axis];
      if (++i < shape[axis]) break;
      offset_a -= a[axis] * shape[axis];
      offset_b -= b[axis] * shape[axis];
      i = 0;
    }
    if (axis < 0) return;
  }
}

}  // namespace

Tensor Tensor::clone() const {
  if (!defined()) return {};
  Tensor t = empty(shape_, dtype_, device_);
  t.copy_from(*this);
  return t;
}

Tensor Tensor::contiguous() const {
  return is_contiguous() ? *this : clone();
}

Tensor Tensor::to(DType dtype) const {
  if (!defined() || dtype == dtype_) return *this;
  Tensor t = empty(shape_, dtype, device_);
  t.copy_from(*this);
  return t;
}

Tensor Tensor::to(Device device) const {
  if (!defined() || device == device_) return *this;
  Tensor t = empty(shape_, dtype_, device);
  t.copy_from(*this);
  return t;
}

// Between devices bytes travel as they are: layouts and dtypes change on the side of the source.
void Tensor::copy_across(const Tensor& source) const {
  if (is_contiguous() && source.is_contiguous() && dtype_ == source.dtype_) {
    cuda::copy_bytes(data_, device_, source.data_, source.device_, size_bytes());
  } else if (is_contiguous()) {
    copy_across(source.to(dtype_).contiguous());
  } else {
    copy_from(source.to(device_));
  }
}

void Tensor::copy_from(const Tensor& source) const {
  if (!(shape_ == source.shape_)) {
    refuse_value(ErrorCode::kInvalidArgument, "tensor", "shape of a copy", shape_.to_string(),
                 source.shape_.to_string());
  }
  if (numel() == 0) return;
  if (!(device_ == source.device_)) return copy_across(source);
  if (!device_.is_cpu()) return cuda::copy_tensor(*this, source);
  if (dtype_ == source.dtype_ && is_contiguous() && source.is_contiguous()) {
    std::memmove(data_, source.data_, static_cast<std::size_t>(size_bytes()));
    return;
  }
  visit_dtype(dtype_, [&](auto to) {
    visit_dtype(source.dtype_, [&](auto from) {
      using To = decltype(to);
      using From = decltype(from);
      const int last = rank() - 1;
      const std::int64_t n = rank() == 0 ? 1 : shape_[last];
      const std::int64_t step_to = rank() == 0 ? 1 : strides_[last];
      const std::int64_t step_from = rank() == 0 ? 1 : source.strides_[last];
      for_each_row(shape_, source.strides_, strides_, [&](std::int64_t offset_from, std::int64_t offset_to) {
        const From* in = static_cast<const From*>(source.data_) + offset_from;
        To* out = static_cast<To*>(data_) + offset_to;
        for (std::int64_t i = 0; i < n; ++i) out[i * step_to] = convert_element<To>(in[i * step_from]);
      });
    });
  });
}

void Tensor::fill(double value) const {
  if (!device_.is_cpu()) return cuda::fill_tensor(*this, value);
  visit_dtype(dtype_, [&](auto to) {
    using To = decltype(to);
    To element;
    store<To>(&element, value);
    const int last = rank() - 1;
    const std::int64_t n = rank() == 0 ? 1 : shape_[last];
    const std::int64_t step = rank() == 0 ? 1 : strides_[last];
    for_each_row(shape_, strides_, strides_, [&](std::int64_t, std::int64_t offset) {
      To* out = static_cast<To*>(data_) + offset;
      for (std::int64_t i = 0; i < n; ++i) out[i * step] = element;
    });
  });
}

std::int64_t Tensor::offset_of(std::initializer_list<std::int64_t> index) const {
  check_equal("tensor", "indices", rank(), static_cast<long long>(index.size()));
  std::int64_t offset = 0;
  int axis = 0;
  for (std::int64_t i : index) {
    if (i < 0 || i >= shape_[axis]) {
      refuse_value(ErrorCode::kInvalidArgument, "tensor", join("index of axis ", axis), join("0 to ", shape_[axis] - 1),
                   std::to_string(i));
    }
    offset += i * strides_[axis++];
  }
  return offset;
}

// The one element as a tensor without axes.
Tensor Tensor::element(std::initializer_list<std::int64_t> index) const {
  return with_strides({}, {}, offset_of(index));
}

double Tensor::at(std::initializer_list<std::int64_t> index) const {
  if (!device_.is_cpu()) return element(index).to(kCpuDevice).at({});
  const std::int64_t offset = offset_of(index);
  return visit_dtype(dtype_,
                     [&](auto t) { return load<decltype(t)>(static_cast<const decltype(t)*>(data_) + offset); });
}

void Tensor::set(std::initializer_list<std::int64_t> index, double value) const {
  if (!device_.is_cpu()) return element(index).fill(value);
  const std::int64_t offset = offset_of(index);
  visit_dtype(dtype_, [&](auto t) { store<decltype(t)>(static_cast<decltype(t)*>(data_) + offset, value); });
}

}  // namespace coluber
