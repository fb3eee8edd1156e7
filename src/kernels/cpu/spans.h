// Loops over a contiguous span of floats in whole vectors and one remainder, for the sources compiled per
// instruction set.
#pragma once

#include "kernels/cpu/simd.h"

// Lambdas with vector arithmetic must end up in the loop that calls them, or every vector would pass through memory.
#define COLUBER_INLINE __attribute__((always_inline))

namespace coluber::cpu::COLUBER_ISA {

struct WholeVector {
  static constexpr std::int64_t count = kLanes;
};
struct PartVector {
  std::int64_t count;  // 1 to kLanes - 1
};

inline VecF load(const float* p, WholeVector) {
  return load(p);
}
inline VecF load(const float* p, PartVector part) {
  return load_first(p, part.count);
}
inline void store(float* p, VecF v, WholeVector) {
  store(p, v);
}
inline void store(float* p, VecF v, PartVector part) {
  store_first(p, v, part.count);
}
// Past the caches if `streams` and the address allows.
inline void store(float* p, VecF v, WholeVector, bool streams) {
  store_whole(p, v, streams);
}
inline void store(float* p, VecF v, PartVector part, bool) {
  store_first(p, v, part.count);
}

// Lanes beyond the span become 0.
inline VecF within(VecF v, WholeVector) {
  return v;
}
inline VecF within(VecF v, PartVector part) {
  VecI lane{};
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  return lane < static_cast<std::int32_t>(part.count) ? v : splat(0.0f);
}

// f(first element, WholeVector or PartVector)
template <class F>
inline COLUBER_INLINE void for_vectors(std::int64_t n, F&& f) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, WholeVector{});
  if (i < n) f(i, PartVector{n - i});
}

// Sum of f(first element, part) over all lanes. Lanes beyond the span must be 0. Four sums at once hide the latency of
// an addition.
template <class F>
inline COLUBER_INLINE float sum_vectors(std::int64_t n, F&& f) {
  VecF a{}, b{}, c{}, d{};
  std::int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    a += f(i, WholeVector{});
    b += f(i + kLanes, WholeVector{});
    c += f(i + 2 * kLanes, WholeVector{});
    d += f(i + 3 * kLanes, WholeVector{});
  }
  for (; i + kLanes <= n; i += kLanes) a += f(i, WholeVector{});
  if (i < n) b += f(i, PartVector{n - i});
  return reduce_add((a + b) + (c + d));
}

}  // namespace coluber::cpu::COLUBER_ISA
