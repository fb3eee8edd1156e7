// N neighbouring numbers of a row in registers: read and written by the widest accesses, computed as f32.
#pragma once

#include <cstdint>

#include "kernels/cuda/common/numbers.cuh"

namespace coluber::cuda {

// N numbers as they are stored; at most 16 bytes are one access.
template <class T, int N>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Raw {
  T values[N];
};

template <int N, class T>
__device__ __forceinline__ Raw<T, N> load_raw(const T* p) {
  Raw<T, N> out;
  constexpr int kBytes = N * static_cast<int>(sizeof(T));
  if constexpr (kBytes == 2)
    *reinterpret_cast<std::uint16_t*>(&out) = *reinterpret_cast<const std::uint16_t*>(p);
  else if constexpr (kBytes == 4)
    *reinterpret_cast<std::uint32_t*>(&out) = *reinterpret_cast<const std::uint32_t*>(p);
  else if constexpr (kBytes == 8)
    *reinterpret_cast<uint2*>(&out) = *reinterpret_cast<const uint2*>(p);
  else
#pragma unroll
    for (int i = 0; i < kBytes / 16; ++i) reinterpret_cast<uint4*>(&out)[i] = reinterpret_cast<const uint4*>(p)[i];
  return out;
}

template <class T, int N>
__device__ __forceinline__ void store_raw(T* p, const Raw<T, N>& v) {
  constexpr int kBytes = N * static_cast<int>(sizeof(T));
  if constexpr (kBytes == 2)
    *reinterpret_cast<std::uint16_t*>(p) = *reinterpret_cast<const std::uint16_t*>(&v);
  else if constexpr (kBytes == 4)
    *reinterpret_cast<std::uint32_t*>(p) = *reinterpret_cast<const std::uint32_t*>(&v);
  else if constexpr (kBytes == 8)
    *reinterpret_cast<uint2*>(p) = *reinterpret_cast<const uint2*>(&v);
  else
#pragma unroll
    for (int i = 0; i < kBytes / 16; ++i) reinterpret_cast<uint4*>(p)[i] = reinterpret_cast<const uint4*>(&v)[i];
}

template <class T, int N>
__device__ __forceinline__ void widen(const Raw<T, N>& in, float (&out)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) out[i] = to_float(in.values[i]);
}

template <int N, class T>
__device__ __forceinline__ void load_floats(const T* p, float (&out)[N]) {
  widen(load_raw<N>(p), out);
}

template <int N, class T>
__device__ __forceinline__ void store_floats(T* p, const float (&in)[N]) {
  Raw<T, N> out;
#pragma unroll
  for (int i = 0; i < N; ++i) out.values[i] = from_float<T>(in[i]);
  store_raw(p, out);
}

}  // namespace coluber::cuda
