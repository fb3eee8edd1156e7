// Storage types on the device: conversions, and 16-byte pieces of a row.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "coluber/dtype.h"

namespace coluber::cuda {

__device__ __forceinline__ float to_float(float x) {
  return x;
}
__device__ __forceinline__ float to_float(bfloat16 x) {
  return __uint_as_float(static_cast<std::uint32_t>(x.bits) << 16);
}
__device__ __forceinline__ float to_float(float16 x) {
  return __half2float(__ushort_as_half(x.bits));
}

// Rounds to nearest even.
template <class T>
__device__ __forceinline__ T from_float(float x) {
  if constexpr (sizeof(T) == 4) {
    return x;
  } else {
    T out;
    if constexpr (std::is_same_v<T, bfloat16>)
      out.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
    else
      out.bits = __half_as_ushort(__float2half_rn(x));
    return out;
  }
}

// Element i of an array whose type is known at run time only; the branch is the same for all threads.
__device__ __forceinline__ float load_number(const void* data, DType dtype, std::int64_t i) {
  switch (dtype) {
    case DType::kBF16: return to_float(static_cast<const bfloat16*>(data)[i]);
    case DType::kF16: return to_float(static_cast<const float16*>(data)[i]);
    default: return static_cast<const float*>(data)[i];
  }
}
__device__ __forceinline__ void store_number(void* data, DType dtype, std::int64_t i, float value) {
  switch (dtype) {
    case DType::kBF16: static_cast<bfloat16*>(data)[i] = from_float<bfloat16>(value); break;
    case DType::kF16: static_cast<float16*>(data)[i] = from_float<float16>(value); break;
    default: static_cast<float*>(data)[i] = value;
  }
}
// What storing and loading again gives.
__device__ __forceinline__ float rounded_to(DType dtype, float value) {
  switch (dtype) {
    case DType::kBF16: return to_float(from_float<bfloat16>(value));
    case DType::kF16: return to_float(from_float<float16>(value));
    default: return value;
  }
}

// As many numbers as 16 bytes hold.
template <class T>
inline constexpr int kPerVector = 16 / static_cast<int>(sizeof(T));

template <class T>
struct alignas(16) Vector {
  T values[kPerVector<T>];
};

template <class T>
__device__ __forceinline__ Vector<T> load_vector(const T* p) {
  Vector<T> v;
  *reinterpret_cast<uint4*>(&v) = *reinterpret_cast<const uint4*>(p);
  return v;
}
template <class T>
__device__ __forceinline__ void store_vector(T* p, const Vector<T>& v) {
  *reinterpret_cast<uint4*>(p) = *reinterpret_cast<const uint4*>(&v);
}

}  // namespace coluber::cuda
