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
  if constexpr (std::is_same_v<T, bfloat16> && N % 2 == 0) {  // one instruction each
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      const std::uint32_t word = reinterpret_cast<const std::uint32_t*>(&in)[i / 2];
      out[i] = __uint_as_float(word << 16);
      out[i + 1] = __uint_as_float(word & 0xffff0000u);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] = to_float(in.values[i]);
  }
}

template <int N, class T>
__device__ __forceinline__ void load_floats(const T* p, float (&out)[N]) {
  widen(load_raw<N>(p), out);
}

// Two numbers rounded by one instruction, the first in the lower half.
template <class T>
__device__ __forceinline__ std::uint32_t packed(float first, float second) {
  std::uint32_t out;
  if constexpr (std::is_same_v<T, bfloat16>)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(second), "f"(first));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(second), "f"(first));
  return out;
}

// N numbers to global memory as one store (of at most 16 bytes) for certain: left to itself, the compiler now and then
// splits a store into its words, which doubles what the L2 cache is asked for.
template <int N, class T>
__device__ __forceinline__ void store_floats(T* p, const float (&in)[N]) {
  constexpr int kBytes = N * static_cast<int>(sizeof(T)), kWords = kBytes / 4;
  if constexpr (kBytes % 8 != 0) {  // 2 or 4 bytes
    Raw<T, N> out;
#pragma unroll
    for (int i = 0; i < N; ++i) out.values[i] = from_float<T>(in[i]);
    store_raw(p, out);
  } else {
    std::uint32_t w[kWords];
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      if constexpr (sizeof(T) == 2)
        w[i] = packed<T>(in[2 * i], in[2 * i + 1]);
      else
        w[i] = __float_as_uint(in[i]);
    }
    if constexpr (kBytes == 8) {
      asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(p), "r"(w[0]), "r"(w[1]) : "memory");
    } else {
      static_assert(kBytes % 16 == 0);
#pragma unroll
      for (int i = 0; i < kWords; i += 4)
        asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(reinterpret_cast<uint4*>(p) + i / 4), "r"(w[i]),
                     "r"(w[i + 1]), "r"(w[i + 2]), "r"(w[i + 3])
                     : "memory");
    }
  }
}

template <int N>
__device__ __forceinline__ void store_shared(float* p, const float (&in)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) p[i] = in[i];
}

}  // namespace coluber::cuda
