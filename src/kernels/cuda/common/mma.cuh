// Products of 16-bit tiles on tensor cores (mma.sync).
//
// A tile product adds a (16,16) b (16,8) to sums (16,8). Lane 4 g + t of a warp holds of the sums rows g and g + 8,
// columns 2 t and 2 t + 1. The sum over the 16 inputs has no order of its own, so inputs may be dealt out to the lanes
// as they lie in memory: from 32 neighbouring inputs of a row, lane t takes 16 bytes from 8 t on, and two products
// take four of those eight numbers each.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/common/numbers.cuh"

namespace coluber::cuda {

// sums += a b. a: inputs of rows g, g + 8, g, g + 8; b: those of column g; two numbers a word.
template <class T>
__device__ __forceinline__ void multiply_tile(float (&sums)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                              std::uint32_t b1) {
  if constexpr (std::is_same_v<T, bfloat16>)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Over 32 inputs: of row g (`low`), of row g + 8 (`high`) and of column g 16 bytes a lane.
template <class T>
__device__ __forceinline__ void multiply_block(float (&sums)[4], const uint4& low, const uint4& high, const uint4& b) {
  multiply_tile<T>(sums, {low.x, high.x, low.y, high.y}, b.x, b.y);
  multiply_tile<T>(sums, {low.z, high.z, low.w, high.w}, b.z, b.w);
}

__device__ __forceinline__ uint4 load_shared(unsigned from) {
  uint4 v;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(from)
               : "memory");
  return v;
}

}  // namespace coluber::cuda
