// Loops over a contiguous span of floats in whole vectors and one remainder, for the sources compiled per
// instruction set.
#pragma once

#include "kernels/cpu/simd.h"

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

// Lanes beyond the span become 0.
inline VecF within(VecF v, WholeVector) {
  return v;
}
inline VecF within(VecF v, PartVector part) {
  VecI lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  return lane < static_cast<std::int32_t>(part.count) ? v : splat(0.0f);
}

// Four sums at once hide the latency of an addition.
inline constexpr int kSums = 4;
struct VecSum {
  VecF part[kSums] = {};
  float total() const { return reduce_add((part[0] + part[1]) + (part[2] + part[3])); }
};

// f(first element, WholeVector or PartVector, which of the kSums sums this vector may add to)
template <class F>
inline __attribute__((always_inline)) void for_vectors(std::int64_t n, F&& f) {
  static_assert(kSums == 4);
  std::int64_t i = 0;
  for (; i + kSums * kLanes <= n; i += kSums * kLanes) {
    f(i, WholeVector{}, 0);
    f(i + kLanes, WholeVector{}, 1);
    f(i + 2 * kLanes, WholeVector{}, 2);
    f(i + 3 * kLanes, WholeVector{}, 3);
  }
  for (; i + kLanes <= n; i += kLanes) f(i, WholeVector{}, 0);
  if (i < n) f(i, PartVector{n - i}, 1);
}

}  // namespace coluber::cpu::COLUBER_ISA
