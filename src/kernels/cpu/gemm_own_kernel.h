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

// Steps for which pointers move once: additions would take turns with multiplications.
inline constexpr int kUnroll = 4;

// Accumulators: 28 of 32 registers with AVX-512, 16 of 32 with NEON, 12 or 8 of 16.
#if defined(__aarch64__)
inline constexpr int kMostRows = 8;
#else
inline constexpr int kMostRows = kLanes == 16 ? 14 : kLanes == 8 ? 6 : 4;
#endif
inline constexpr int kMostVectors = 2;

// c (rows, columns) = or += the rows of a times a panel of b.
struct PanelProduct {
  const char* a = nullptr;  // unit l of row i at a + i * a_row + l * 4 bytes, unless packed
  std::int64_t a_row = 0;
  const float* b = nullptr;  // a panel of gemm_own_pack.h
  std::int64_t units = 0;
  float* c = nullptr;
  std::int64_t ldc = 0;
  std::int64_t columns = 0;
  bool add = false;
  // What later products read of a is brought into L2 on the way, a line `ask_step` bytes further every kUnroll steps,
  // and another `ask_second` bytes beside it: the hardware asks for 14 rows at once too late. A prompt through
  // (1024,256) took 0.92 of the time.
  const char* ask = nullptr;
  std::int64_t ask_step = 0, ask_second = 0;
};

// Rows of a as pack() lays them out for VectorEngine: units kPackedStep bytes apart, rows side by side.
inline constexpr std::int64_t kPackedStep = (kMostRows + kLanes - 1) / kLanes * kLanes * 4;

// A unit of a in all lanes; opaque, for else the compiler gathers those of several steps and has no registers left.
inline VecF in_all_lanes(const char* a) {
  float unit;
  std::memcpy(&unit, a, sizeof unit);
  return opaque(splat(unit));
}

inline VecF add_products(VecF sum, VecF a, VecF b, float) {
#if defined(COLUBER_ISA_AVX512)
  asm("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));  // for gcc 12 else runs out of registers
  return sum;
#else
  return sum + a * b;
#endif
}

#if defined(COLUBER_ISA_AVX512)
// Two products a lane at once. Written out, because the set is chosen without this instruction (cmake/isa.cmake).
inline VecF add_products(VecF sum, VecF a, VecF b, bfloat16) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}
#endif

template <class T, int kRows, int kVectors, bool kPacked>
void multiply_panels(const PanelProduct& p) {
  // x86 addresses have room for one row's distance or two; a pointer for each row does not fit.
  constexpr int kRowsPerPointer = kPacked ? kRows : 3, kPointers = (kRows + kRowsPerPointer - 1) / kRowsPerPointer;
  constexpr int kAhead = 16;  // steps; the panel comes from L2
  const std::int64_t a_row = kPacked ? 4 : p.a_row, a_step = kPacked ? kPackedStep : 4;
  const char* a[kPointers];
  for (int i = 0; i < kPointers; ++i) a[i] = p.a + kRowsPerPointer * i * a_row;
  const float* b = p.b;
  const char *ask = p.ask, *ask_second = p.ask + p.ask_second;
  const std::int64_t ask_step = p.ask_step;
  VecF sum[kRows][kVectors] = {};
  auto step = [&](int l) {
    VecF b_l[kVectors];
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) {
      b_l[j] = load(b + (l * kVectors + j) * kLanes);
      __builtin_prefetch(b + ((l + kAhead) * kVectors + j) * kLanes);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const VecF a_i = in_all_lanes(a[i / kRowsPerPointer] + i % kRowsPerPointer * a_row + l * a_step);
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) sum[i][j] = add_products(sum[i][j], a_i, b_l[j], T{});
    }
  };
  auto advance = [&](int steps) {
#pragma GCC unroll 8
    for (int i = 0; i < kPointers; ++i) a[i] += steps * a_step;
    b += steps * kVectors * kLanes;
  };
  std::int64_t l = p.units;
  for (; l >= kUnroll; l -= kUnroll) {
    __builtin_prefetch(ask, 0, 2);
    __builtin_prefetch(ask_second, 0, 2);
    ask += ask_step;
    ask_second += ask_step;
#pragma GCC unroll 4
    for (int u = 0; u < kUnroll; ++u) step(u);
    advance(kUnroll);
  }
  for (; l > 0; --l) {
    step(0);
    advance(1);
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

template <class T, int kVectors, bool kPacked, int... kRowsLessOne>
constexpr std::array<MultiplyPanels, kMostRows> panel_multipliers(std::integer_sequence<int, kRowsLessOne...>) {
  return {&multiply_panels<T, kRowsLessOne + 1, kVectors, kPacked>...};
}

// `packed`: rows of a as pack() lays them out, else each with its units side by side.
template <class T>
inline MultiplyPanels panel_multiplier(std::int64_t rows, std::int64_t vectors, bool packed) {
  constexpr std::make_integer_sequence<int, kMostRows> kAllRows;
  static constexpr std::array<MultiplyPanels, kMostRows> kMultipliers[] = {
      panel_multipliers<T, 1, false>(kAllRows), panel_multipliers<T, 2, false>(kAllRows),
      panel_multipliers<T, 1, true>(kAllRows), panel_multipliers<T, 2, true>(kAllRows)};
  return kMultipliers[vectors - 1 + 2 * packed][static_cast<std::size_t>(rows - 1)];
}

}  // namespace coluber::cpu::COLUBER_ISA
