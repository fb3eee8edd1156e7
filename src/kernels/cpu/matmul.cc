// Products of a few tokens, conversions of weights, column sums: one source, compiled per instruction set.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/matmul_isa.h"
#include "kernels/cpu/simd.h"

#if defined(COLUBER_ISA_AVX512) || defined(COLUBER_ISA_AVX2)
#include <immintrin.h>
#endif

namespace coluber::cpu::COLUBER_ISA {
namespace {

#if defined(COLUBER_ISA_AVX512)
inline VecF as_vec(__m512 wide) {
  return reinterpret_cast<VecF>(wide);
}
inline VecF load_wide(const bfloat16* p) {
  const __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return as_vec(_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16)));
}
inline VecF load_wide(const float16* p) {
  return as_vec(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
}
#elif defined(COLUBER_ISA_AVX2)
inline VecF as_vec(__m256 wide) {
  return reinterpret_cast<VecF>(wide);
}
inline VecF load_wide(const bfloat16* p) {
  const __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return as_vec(_mm256_castsi256_ps(_mm256_slli_epi32(bits, 16)));
}
inline VecF load_wide(const float16* p) {
  return as_vec(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
#else
inline VecF load_wide(const bfloat16* p) {
  return load_bf16(p);
}
// Exact, subnormals included, even while denormals are flushed: those are converted as integers.
inline VecF load_wide(const float16* p) {
  VecH half;
  std::memcpy(&half, p, sizeof half);
  const VecI bits = __builtin_convertvector(half, VecI);
  const VecI magnitude = bits & 0x7fff;
  const VecF subnormal = __builtin_convertvector(magnitude, VecF) * 5.9604644775390625e-8f;  // 2^-24
  const VecI bias = magnitude >= 0x7c00 ? VecI{} + ((255 - 31) << 23) : VecI{} + ((127 - 15) << 23);
  const VecF normal = bit_cast_f((magnitude << 13) + bias);
  const VecF v = magnitude < 0x400 ? subnormal : normal;
  return bit_cast_f(bit_cast_i(v) | ((bits & 0x8000) << 16));
}
#endif
inline VecF load_wide(const float* p) {
  return load(p);
}

// The order of reduce_add in simd.h, in registers.
inline float sum_of_lanes(VecF v) {
#if defined(COLUBER_ISA_AVX512)
  const auto eight = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                     __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
#elif defined(COLUBER_ISA_AVX2)
  const VecF eight = v;
#endif
#if defined(COLUBER_ISA_AVX512) || defined(COLUBER_ISA_AVX2)
  const auto four =
      __builtin_shufflevector(eight, eight, 0, 1, 2, 3) + __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
#else
  const VecF four = v;
#endif
  const auto two = four + __builtin_shufflevector(four, four, 2, 3, 2, 3);
  return two[0] + two[1];
}

inline VecF round_to_bf16(VecF v) {
  VecU u;
  std::memcpy(&u, &v, sizeof u);
  u = (u + 0x7fffu + ((u >> 16) & 1u)) & 0xffff0000u;
  std::memcpy(&v, &u, sizeof v);
  return v;
}

// How a row of weights becomes vectors of f32, one after the other or two at a time.
template <class T>
struct Plain {
  using Element = T;
  static VecF load(const T* p) { return load_wide(p); }
  static void load_two(const T* p, VecF* two) {
    two[0] = load_wide(p);
    two[1] = load_wide(p + kLanes);
  }
};
// Two at a time are the even and the odd elements: one load, a shift and a mask. split_pairs lays out x to match.
template <>
struct Plain<bfloat16> {
  using Element = bfloat16;
  static VecF load(const bfloat16* p) { return load_wide(p); }
  static void load_two(const bfloat16* p, VecF* two) {
    VecI pairs;
    std::memcpy(&pairs, p, sizeof pairs);
    hold(pairs);
    two[0] = bit_cast_f(pairs << 16);
    two[1] = bit_cast_f(pairs & static_cast<std::int32_t>(0xffff0000u));
  }
};
template <class T>
struct Rounded {
  using Element = T;
  static VecF load(const T* p) { return round_to_bf16(load_wide(p)); }
  static void load_two(const T* p, VecF* two) {
    two[0] = load(p);
    two[1] = load(p + kLanes);
  }
};

template <class Weight>
VecF load_weights(const typename Weight::Element* p, std::int64_t n) {
  if (n >= kLanes) return Weight::load(p);
  typename Weight::Element padded[kLanes] = {};
  std::copy(p, p + n, padded);
  return Weight::load(padded);
}

// f(Weight{}) for the dtype and rounding of a call; rounding a bf16 weight changes nothing.
template <class F>
void with_weight(DType dtype, bool round_bf16, F&& f) {
  if (dtype == DType::kBF16)
    f(Plain<bfloat16>{});
  else if (dtype == DType::kF16)
    round_bf16 ? f(Rounded<float16>{}) : f(Plain<float16>{});
  else
    round_bf16 ? f(Rounded<float>{}) : f(Plain<float>{});
}

// Every output is two sums over k, one for each vector of load_two: the same order for any number of tokens, and two
// additions under way at a time, which is enough to follow a cache line of bf16 every 8 cycles.
constexpr std::int64_t kStep = 2 * kLanes;

// The k % kStep last products of a block. Rare: kept apart so that it costs no registers.
template <class Weight>
__attribute__((noinline)) void add_last_columns(const LinearForwardParams& p, const float* x, std::int64_t row,
                                                int rows, int tokens, VecF* sum) {
  for (std::int64_t l = p.k / kStep * kStep, half = 0; l < p.k; l += kLanes, ++half) {
    const std::int64_t count = std::min<std::int64_t>(kLanes, p.k - l);
    const auto* w = static_cast<const typename Weight::Element*>(p.weight.data) + row * p.weight.ld + l;
    for (int r = 0; r < rows; ++r) {
      const VecF weights = load_weights<Weight>(w + r * p.weight.ld, count);
      for (int t = 0; t < tokens; ++t)
        sum[(r * tokens + t) * 2 + half] += weights * load_first(x + t * p.ldx + l, count);
    }
  }
}

// kRows outputs for kTokens tokens. Asks for kLines cache lines from `ahead` on each time that it takes kRows of them.
template <class Weight, int kRows, int kTokens, int kLines>
void skinny_block(const LinearForwardParams& p, const float* x, float* y, std::int64_t row, const char*& ahead) {
  using Element = typename Weight::Element;
  constexpr std::int64_t kLineBytes = 64, kAskBytes = kLines * kStep * static_cast<std::int64_t>(sizeof(Element));
  const Element* w = static_cast<const Element*>(p.weight.data) + row * p.weight.ld;
  VecF sum[kRows][kTokens][2] = {};
  const std::int64_t whole = p.k / kStep * kStep;
  const char* ask = ahead;
  for (std::int64_t l = 0; l < whole; l += kStep) {
    VecF weights[kRows][2];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      Weight::load_two(w + r * p.weight.ld + l, weights[r]);
      hold(weights[r][0]);
      hold(weights[r][1]);
    }
    // Into L2, in the order of addresses: the hardware follows one row by itself, but neither several rows at once
    // nor far enough when there is work to do between two lines.
#pragma GCC unroll 8
    for (std::int64_t i = 0; i < kAskBytes; i += kLineBytes) __builtin_prefetch(ask + i, 0, 2);
    ask += kAskBytes;
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      VecF first = load(x + t * p.ldx + l), second = load(x + t * p.ldx + l + kLanes);
      if constexpr (kRows > 1) {
        hold(first);
        hold(second);
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        sum[r][t][0] += weights[r][0] * first;
        sum[r][t][1] += weights[r][1] * second;
      }
    }
  }
  ahead = ask;
  if (whole < p.k) {
    VecF spilled[kRows][kTokens][2];  // a copy, so that the sums themselves never need memory
    std::memcpy(spilled, sum, sizeof sum);
    add_last_columns<Weight>(p, x, row, kRows, kTokens, &spilled[0][0][0]);
    std::memcpy(sum, spilled, sizeof sum);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const float bias = p.bias == nullptr ? 0.0f : p.bias[row + r];
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) y[t * p.ldy + row + r] = sum_of_lanes(sum[r][t][0] + sum[r][t][1]) + bias;
  }
}

template <class Weight, int kRows, int kTokens, int kLines>
void skinny_rows(const LinearForwardParams& p, std::int64_t token, std::int64_t begin, std::int64_t end,
                 const char*& ahead) {
  const float* x = p.x + token * p.ldx;
  float* y = p.y + token * p.ldy;
  std::int64_t row = begin;
  for (; row + kRows <= end; row += kRows) skinny_block<Weight, kRows, kTokens, kLines>(p, x, y, row, ahead);
  for (; row < end; ++row) skinny_block<Weight, 1, kTokens, 1>(p, x, y, row, ahead);
}

// Up to kMostTokens tokens in one pass; at 4 KiB and at 16 KiB ahead it was slower.
template <class Weight, int kRows, int kMostTokens>
void skinny_pass(const LinearForwardParams& p, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kAheadBytes = 8 << 10;
  const char* ahead = static_cast<const char*>(p.weight.data) + kAheadBytes +
                      begin * p.weight.ld * static_cast<std::int64_t>(sizeof(typename Weight::Element));
  switch (p.m) {
    case 1: return skinny_rows<Weight, kRows, 1, kRows>(p, 0, begin, end, ahead);
    case 2: return skinny_rows<Weight, kRows, 2, kRows>(p, 0, begin, end, ahead);
    case 3: return skinny_rows<Weight, kRows, std::min(3, kMostTokens), kRows>(p, 0, begin, end, ahead);
    default: return skinny_rows<Weight, kRows, kMostTokens, kRows>(p, 0, begin, end, ahead);
  }
}

// More tokens: group by group over a piece of rows that stays in the cache, so that memory is read once. Meanwhile the
// rows of the next piece and 4 KiB beyond are asked for, a share in every pass, so that memory is never idle.
template <class Weight, int kRows, int kMostTokens>
void skinny_passes(const LinearForwardParams& p, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kPiece = 4 * kRows, kAheadBytes = 4 << 10;
  constexpr int kFirst = kRows - kRows / 2, kLater = kRows / 2;
  const char* weights = static_cast<const char*>(p.weight.data);
  const std::int64_t row_bytes = p.weight.ld * static_cast<std::int64_t>(sizeof(typename Weight::Element));
  for (std::int64_t row = begin; row < end; row += kPiece) {
    const std::int64_t last = std::min(row + kPiece, end);
    const char* ahead = weights + last * row_bytes + kAheadBytes;
    skinny_rows<Weight, kRows, kMostTokens, kFirst>(p, 0, row, last, ahead);
    for (std::int64_t t = kMostTokens; t < p.m; t += kMostTokens) {
      switch (std::min<std::int64_t>(kMostTokens, p.m - t)) {
        case 1: skinny_rows<Weight, kRows, 1, kLater>(p, t, row, last, ahead); break;
        case 2: skinny_rows<Weight, kRows, 2, kLater>(p, t, row, last, ahead); break;
        case 3: skinny_rows<Weight, kRows, std::min(3, kMostTokens), kLater>(p, t, row, last, ahead); break;
        default: skinny_rows<Weight, kRows, kMostTokens, kLater>(p, t, row, last, ahead); break;
      }
    }
  }
}

template <class Weight, int kRows, int kMostTokens>
void skinny_tokens(const LinearForwardParams& p, std::int64_t begin, std::int64_t end) {
  p.m <= kMostTokens ? skinny_pass<Weight, kRows, kMostTokens>(p, begin, end)
                     : skinny_passes<Weight, kRows, kMostTokens>(p, begin, end);
}

}  // namespace

void skinny_forward(const LinearForwardParams& p, std::int64_t begin, std::int64_t end) {
  // One row after the other is how memory is read fastest. When x no longer fits L1 beside it, three rows share each
  // load of x. Accumulators: 2 x 4 x 1 or 2 x 4 x 3 of 32 registers, 2 x 4 x 1 or 2 x 2 x 3 of 16.
  constexpr std::int64_t kMostInputsInL1 = (20 << 10) / sizeof(float);
  constexpr int kTokensOfThreeRows = kLanes == 16 ? 4 : 2;
  with_weight(p.weight.dtype, p.bf16, [&](auto weight) {
    using Weight = decltype(weight);
    if (p.m * p.k <= kMostInputsInL1)
      skinny_tokens<Weight, 1, 4>(p, begin, end);
    else
      skinny_tokens<Weight, 3, kTokensOfThreeRows>(p, begin, end);
  });
}

void split_pairs(const float* x, std::int64_t n, float* to) {
  std::int64_t i = 0;
  for (; i + kStep <= n; i += kStep) {
    for (int lane = 0; lane < kLanes; ++lane) {
      to[i + lane] = x[i + 2 * lane];
      to[i + kLanes + lane] = x[i + 2 * lane + 1];
    }
  }
  std::copy(x + i, x + n, to + i);
}

void widen(const void* from, DType dtype, bool round_bf16, float* to, std::int64_t n) {
  with_weight(dtype, round_bf16, [&](auto weight) {
    using Weight = decltype(weight);
    const auto* w = static_cast<const typename Weight::Element*>(from);
    std::int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(to + i, Weight::load(w + i));
    if (i < n) store_first(to + i, load_weights<Weight>(w + i, n - i), n - i);
  });
}

void narrow(const void* from, DType dtype, bfloat16* to, std::int64_t n) {
  with_weight(dtype, false, [&](auto weight) {
    using Weight = decltype(weight);
    const auto* w = static_cast<const typename Weight::Element*>(from);
    std::int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store_bf16(to + i, Weight::load(w + i));
    if (i < n) {
      bfloat16 last[kLanes];
      store_bf16(last, load_weights<Weight>(w + i, n - i));
      std::copy(last, last + (n - i), to + i);
    }
  });
}

void column_sums(const LinearGradBiasParams& p, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kColumns = 64;
  for (std::int64_t j = begin; j < end; j += kColumns) {
    const std::int64_t count = std::min(kColumns, end - j);
    double sums[kColumns] = {};
    for (std::int64_t i = 0; i < p.m; ++i) {
      const float* row = p.grad_y + i * p.ldgy + j;
      for (std::int64_t c = 0; c < count; ++c) sums[c] += static_cast<double>(row[c]);
    }
    for (std::int64_t c = 0; c < count; ++c) {
      const double old = p.accumulate ? static_cast<double>(p.grad_bias[j + c]) : 0;
      p.grad_bias[j + c] = static_cast<float>(old + sums[c]);
    }
  }
}

std::uint32_t sum_of_words(const std::uint32_t* words, std::int64_t n) {
  constexpr int kSums = 16 / kLanes > 4 ? 16 / kLanes : 4;
  VecU sum[kSums] = {};
  std::int64_t i = 0;
  for (; i + kSums * kLanes <= n; i += kSums * kLanes) {
#pragma GCC unroll 4
    for (int s = 0; s < kSums; ++s) {
      VecU v;
      std::memcpy(&v, words + i + s * kLanes, sizeof v);
      sum[s] += v;
    }
  }
  std::uint32_t total = 0;
  for (; i < n; ++i) total += words[i];
  for (const VecU& s : sum)
    for (int lane = 0; lane < kLanes; ++lane) total += s[lane];
  return total;
}

void add_row(float* to, const float* from, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] += from[i];
}

}  // namespace coluber::cpu::COLUBER_ISA
