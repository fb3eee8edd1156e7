// How gemm_own.cc lays out the factors of a product: in units of four bytes along k, one f32 or a pair of bf16.
//
// A panel holds kLanes columns (or two vectors of them) of a factor side by side, unit by unit of k, so that the
// innermost loop loads whole vectors. Where the factor's elements lie side by side along k that is a transposition,
// done in registers four units at a time; else it is a copy, which pairs two rows when elements are bf16.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "coluber/dtype.h"
#include "kernels/cpu/simd.h"

namespace coluber::cpu::COLUBER_ISA {

template <class T>
inline constexpr std::int64_t kElemsPerUnit = 4 / static_cast<std::int64_t>(sizeof(T));

// One factor of a product, seen as `extent` columns of k elements.
template <class T>
struct Side {
  const T* data = nullptr;
  std::int64_t ld = 0;
  bool k_contiguous = false;
  std::int64_t extent = 0;

  const T* at(std::int64_t column, std::int64_t l) const {
    return k_contiguous ? data + column * ld + l : data + l * ld + column;
  }
};

inline VecF load_units(const void* p) {
  VecF v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// Four units of column q and of every fourth one after it.
inline VecF load_fours(const void* const* columns, int q, std::int64_t byte) {
  auto four = [&](int i) { return static_cast<const char*>(columns[q + 4 * i]) + byte; };
#if defined(COLUBER_ISA_AVX512)
  auto bits = [&](int i) { return _mm_loadu_ps(reinterpret_cast<const float*>(four(i))); };
  __m512 v = _mm512_castps128_ps512(bits(0));
  v = _mm512_maskz_insertf32x4(kAllLanes, v, bits(1), 1);
  v = _mm512_maskz_insertf32x4(kAllLanes, v, bits(2), 2);
  return reinterpret_cast<VecF>(_mm512_maskz_insertf32x4(kAllLanes, v, bits(3), 3));
#elif defined(COLUBER_ISA_AVX2)
  auto bits = [&](int i) { return _mm_loadu_ps(reinterpret_cast<const float*>(four(i))); };
  return reinterpret_cast<VecF>(_mm256_insertf128_ps(_mm256_castps128_ps256(bits(0)), bits(1), 1));
#else
  return load_units(four(0));
#endif
}

// Within every four lanes: a0 b0 a1 b1, a2 b2 a3 b3, a0 a1 b0 b1, a2 a3 b2 b3.
template <int kFirst, bool kPairs, std::size_t... kLane>
inline VecF interleave(VecF a, VecF b, std::index_sequence<kLane...>) {
  return __builtin_shufflevector(
      a, b,
      (static_cast<int>(kLane) / 4 * 4 + kFirst +
       (kPairs ? static_cast<int>(kLane) % 2 + static_cast<int>(kLane) % 4 / 2 * kLanes
               : static_cast<int>(kLane) % 4 / 2 + static_cast<int>(kLane) % 2 * kLanes))...);
}
template <int kFirst, bool kPairs>
inline VecF interleave(VecF a, VecF b) {
  return interleave<kFirst, kPairs>(a, b, std::make_index_sequence<kLanes>());
}

// Four units of kLanes columns, from `byte` of each on: one vector of columns a unit.
inline void transpose_four_units(const void* const* columns, std::int64_t byte, VecF* to) {
  VecF v[4];
  for (int q = 0; q < 4; ++q) v[q] = load_fours(columns, q, byte);
  const VecF ab_low = interleave<0, false>(v[0], v[1]), cd_low = interleave<0, false>(v[2], v[3]);
  const VecF ab_high = interleave<2, false>(v[0], v[1]), cd_high = interleave<2, false>(v[2], v[3]);
  to[0] = interleave<0, true>(ab_low, cd_low);
  to[1] = interleave<2, true>(ab_low, cd_low);
  to[2] = interleave<0, true>(ab_high, cd_high);
  to[3] = interleave<2, true>(ab_high, cd_high);
}

// Units [0, depth) of kLanes columns, `stride` floats from one unit to the next.
inline void transpose_units(const void* const* columns, std::int64_t depth, std::int64_t stride, float* to) {
  std::int64_t l = 0;
  for (; l + 4 <= depth; l += 4, to += 4 * stride) {
    VecF v[4];
    transpose_four_units(columns, 4 * l, v);
    for (int i = 0; i < 4; ++i) store(to + i * stride, v[i]);
  }
  for (; l < depth; ++l, to += stride)
    for (int i = 0; i < kLanes; ++i) std::memcpy(to + i, static_cast<const char*>(columns[i]) + 4 * l, 4);
}

// One unit of k from `row` of a factor whose columns lie side by side, `count` or kLanes of them; `whole` unless k ends
// within the unit.
inline void copy_unit(const float* row, std::int64_t, bool, std::int64_t count, float* to) {
  store(to, count >= kLanes ? load(row) : load_first(row, count));
}
#if defined(COLUBER_ISA_AVX512)
inline void copy_unit(const bfloat16* row, std::int64_t ld, bool whole, std::int64_t count, float* to) {
  const auto lanes = static_cast<__mmask16>(count >= kLanes ? 0xffff : (1 << count) - 1);
  auto wide = [&](const bfloat16* p) { return _mm512_maskz_cvtepu16_epi32(lanes, _mm256_maskz_loadu_epi16(lanes, p)); };
  __m512i pairs = wide(row);
  if (whole) pairs = _mm512_or_si512(pairs, _mm512_maskz_slli_epi32(kAllLanes, wide(row + ld), 16));
  std::memcpy(to, &pairs, sizeof pairs);
}
#endif

// `count` columns of a factor from `column` on, laid out `vectors` vectors wide at `data`. Columns beyond count are of
// no meaning: their results are not stored.
struct Panel {
  std::int64_t column = 0, count = 0, vectors = 0;
  float* data = nullptr;
};

template <class T>
void transpose_panel(const Side<T>& side, const Panel& panel, std::int64_t l, std::int64_t elems) {
  constexpr std::int64_t kPer = kElemsPerUnit<T>;
  const std::int64_t stride = panel.vectors * kLanes, whole = elems / kPer;
  for (std::int64_t j = 0; j < stride; j += kLanes) {
    const void* columns[kLanes];
    for (std::int64_t i = 0; i < kLanes; ++i) columns[i] = side.at(panel.column + std::min(j + i, panel.count - 1), l);
    transpose_units(columns, whole, stride, panel.data + j);
    if (whole * kPer == elems) continue;
    float* last = panel.data + whole * stride + j;
    std::memset(last, 0, sizeof(VecF));
    for (int i = 0; i < kLanes; ++i) std::memcpy(last + i, static_cast<const T*>(columns[i]) + whole * kPer, sizeof(T));
  }
}

// A panel whose columns lie side by side. Reads up to a vector beyond it, where the factor goes on, and asks for lines
// to come: rows are pages apart, where no hardware looks ahead.
template <class T>
void copy_panel(const Side<T>& side, const Panel& panel, std::int64_t l, std::int64_t elems) {
  constexpr std::int64_t kPer = kElemsPerUnit<T>, kAhead = 16;
  const std::int64_t stride = panel.vectors * kLanes, readable = side.extent - panel.column,
                     ahead = kAhead * kPer * side.ld;
  const T* row = side.at(panel.column, l);
  float* to = panel.data;
  for (std::int64_t rest = elems; rest > 0; rest -= kPer, row += kPer * side.ld, to += stride) {
    for (std::int64_t j = 0; j < stride; j += kLanes) {
      if (j >= readable) break;
      __builtin_prefetch(row + j + ahead);
      copy_unit(row + j, side.ld, rest >= kPer, readable - j, to + j);
    }
  }
}

// Elements [l, l + elems) of k of a panel. An element of bf16 that is missing in the last unit counts as 0.
template <class T>
void pack(const Side<T>& side, const Panel& panel, std::int64_t l, std::int64_t elems) {
  side.k_contiguous ? transpose_panel(side, panel, l, elems) : copy_panel(side, panel, l, elems);
}

}  // namespace coluber::cpu::COLUBER_ISA
