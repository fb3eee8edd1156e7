// View<T, Rank>: what a kernel sees of a tensor. A plain struct of pointer, extents and strides (in elements); no
// ownership, no dtype, no device. Usable from host and device code.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define COLUBER_HD __host__ __device__
#else
#define COLUBER_HD
#endif

namespace coluber {

template <class T, int Rank>
struct View {
  T* data = nullptr;  // null: the tensor is absent
  std::int64_t shape[Rank] = {};
  std::int64_t strides[Rank] = {};

  COLUBER_HD explicit operator bool() const { return data != nullptr; }

  template <class... Index>
  COLUBER_HD T& operator()(Index... index) const {
    static_assert(sizeof...(Index) == Rank);
    const std::int64_t i[Rank] = {static_cast<std::int64_t>(index)...};
    std::int64_t offset = 0;
    for (int axis = 0; axis < Rank; ++axis) offset += i[axis] * strides[axis];
    return data[offset];
  }

  // Pointer to element (index..., 0, 0, ...).
  template <class... Index>
  COLUBER_HD T* ptr(Index... index) const {
    static_assert(sizeof...(Index) <= Rank);
    const std::int64_t i[sizeof...(Index) + 1] = {static_cast<std::int64_t>(index)..., 0};
    std::int64_t offset = 0;
    for (int axis = 0; axis < static_cast<int>(sizeof...(Index)); ++axis) offset += i[axis] * strides[axis];
    return data + offset;
  }
};

}  // namespace coluber
