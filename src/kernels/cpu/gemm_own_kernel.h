// The innermost loop of gemm_own.cc: up to kMostRows rows times one or two vectors of columns, kept in registers over
// all of k. A step of k costs a load for each row, which fills a register, and a fused multiply-add for each vector:
// with 14 rows and two vectors 16 loads beside 28 multiplications, and a machine does two of each in a cycle.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels/cpu/gemm_own_pack.h"

namespace coluber::cpu::COLUBER_ISA {

// Accumulators: 28 of 32 registers with AVX-512, 16 of 32 with NEON, 12 or 8 of 16.
#if defined(__aarch64__)
inline constexpr int kMostRows = 8;
#else
inline constexpr int kMostRows = kLanes == 16 ? 14 : kLanes == 8 ? 6 : 4;
#endif
inline constexpr int kMostVectors = 2;

// c (rows, columns) = or += the rows of a times a panel of b.
struct PanelProduct {
  const char* a = nullptr;  // unit l of row i at a + i * a_row + l * a_step, in bytes
  std::int64_t a_row = 0, a_step = 0;
  const float* b = nullptr;  // a panel of gemm_own_pack.h
  std::int64_t units = 0;
  float* c = nullptr;
  std::int64_t ldc = 0;
  std::int64_t columns = 0;
  bool add = false;
};

inline VecF add_products(VecF sum, const char* a, VecF b, float) {
  float unit;
  std::memcpy(&unit, a, sizeof unit);
  return sum + splat(unit) * b;
}

#if defined(COLUBER_ISA_AVX512)
// Two products a lane at once. Written out, because the set is chosen without this instruction (cmake/isa.cmake).
inline VecF add_products(VecF sum, const char* a, VecF b, bfloat16) {
  int unit;
  std::memcpy(&unit, a, sizeof unit);
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(_mm512_set1_epi32(unit)), "v"(b));
  return sum;
}
#endif

template <class T, int kRows, int kVectors>
void multiply_panels(const PanelProduct& p) {
  constexpr int kRowsPerPointer = 3, kPointers = (kRows + kRowsPerPointer - 1) / kRowsPerPointer;
  const char*
      a[kPointers];  // x86 addresses have room for one row's distance or two; a pointer for each row does not fit
  for (int i = 0; i < kPointers; ++i) a[i] = p.a + kRowsPerPointer * i * p.a_row;
  const float* b = p.b;
  const std::int64_t a_row = p.a_row, a_step = p.a_step;
  constexpr int kAhead = 16;  // steps; the panel comes from L2
  VecF sum[kRows][kVectors] = {};
  for (std::int64_t l = p.units; l > 0; --l, b += kVectors * kLanes) {
    VecF b_l[kVectors];
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) {
      b_l[j] = load(b + j * kLanes);
      __builtin_prefetch(b + (kAhead * kVectors + j) * kLanes);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const char* a_i = a[i / kRowsPerPointer] + i % kRowsPerPointer * a_row;
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) sum[i][j] = add_products(sum[i][j], a_i, b_l[j], T{});
    }
#pragma GCC unroll 8
    for (int i = 0; i < kPointers; ++i) a[i] += a_step;
  }
  const std::int64_t last = p.columns - (kVectors - 1) * kLanes;
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    float* c = p.c + i * p.ldc;
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j, c += kLanes) {
      if (j < kVectors - 1 || last == kLanes)
        store(c, p.add ? load(c) + sum[i][j] : sum[i][j]);
      else
        store_first(c, p.add ? load_first(c, last) + sum[i][j] : sum[i][j], last);
    }
  }
}

using MultiplyPanels = void (*)(const PanelProduct&);

template <class T, int kVectors, int... kRowsLessOne>
constexpr std::array<MultiplyPanels, kMostRows> panel_multipliers(std::integer_sequence<int, kRowsLessOne...>) {
  return {&multiply_panels<T, kRowsLessOne + 1, kVectors>...};
}

template <class T>
inline MultiplyPanels panel_multiplier(std::int64_t rows, std::int64_t vectors) {
  constexpr std::make_integer_sequence<int, kMostRows> kAllRows;
  static constexpr std::array<MultiplyPanels, kMostRows> kMultipliers[] = {panel_multipliers<T, 1>(kAllRows),
                                                                           panel_multipliers<T, 2>(kAllRows)};
  return kMultipliers[vectors - 1][static_cast<std::size_t>(rows - 1)];
}

}  // namespace coluber::cpu::COLUBER_ISA
