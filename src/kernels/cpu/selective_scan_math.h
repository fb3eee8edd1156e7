// Arithmetic that forward, backward and step of selective_scan share, so that they agree in every bit.
//
// Error bounds stand beside each function, u = 2^-24; tests/kernels/selective_scan_test.cc repeats them.
#pragma once

#include <utility>

#ifdef __aarch64__
#include <arm_neon.h>
#endif

#include "kernels/cpu/simd.h"

#if defined(COLUBER_ISA_AVX512)
#include <immintrin.h>
#endif

namespace coluber::cpu::COLUBER_ISA {

inline constexpr float kLog2E = 1.44269504088896340736f;
inline constexpr float kLn2 = 0.69314718055994530942f;

// Keeps a product from being contracted into a sum: which of two products becomes part of a fused multiply-add is
// otherwise the compiler's choice, and would differ between forward and step.
inline VecF rounded(VecF x) {
  return opaque(x);
}

// a b + c: rounded once on ARM, where gcc fuses the line in one loop and not in another; elsewhere as the contraction
// of this expression, which is the same in each.
inline VecF multiply_add(VecF a, float b, VecF c) {
#ifdef __aarch64__
  return reinterpret_cast<VecF>(vfmaq_n_f32(reinterpret_cast<float32x4_t>(c), reinterpret_cast<float32x4_t>(a), b));
#else
  return a * b + c;
#endif
}

// x in all lanes. x - 0 is x, so that the compiler emits a broadcast alone; 0 + x is not x for -0.
inline VecF all_lanes(float x) {
  return x - VecF{};
}

inline VecF load_part(const float* p, std::int64_t count) {
#if defined(COLUBER_ISA_AVX512)
  return VecF(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p));
#else
  VecF v{};
  for (int i = 0; i < count; ++i) v[i] = p[i];
  return v;
#endif
}
inline void store_part(float* p, VecF v, std::int64_t count) {
#if defined(COLUBER_ISA_AVX512)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), __m512(v));
#else
  for (int i = 0; i < count; ++i) p[i] = v[i];
#endif
}
// `count` lanes of kLanes.
inline VecF load_lanes(const float* p, std::int64_t count) {
  return count == kLanes ? load(p) : load_part(p, count);
}
inline void store_lanes(float* p, VecF v, std::int64_t count) {
  count == kLanes ? store(p, v) : store_part(p, v, count);
}

#if defined(COLUBER_ISA_AVX512)
// 2^(a b). Relative error at most 3.4 u + 0.7 u |a b|; never above 1 for a b <= 0.
//
// The fraction is that above the whole number below: one instruction takes it, and scalef rounds down by itself, two
// operations fewer than to the nearest (a sweep of the scan took 0.83 of the time). 2^f for 0 <= f <= 1: minimax of
// degree 5 with 2^0 = 1 and 2^1 = 2, both exact as floats; relative error at most 2.7 u. Goes to 0 and infinity as it
// should.
inline VecF exp2_product(VecF a, VecF b) {
  constexpr int kDown = _MM_FROUND_TO_NEG_INF;
  const VecF power = rounded(a * b);
  const VecF f = VecF(_mm512_maskz_reduce_ps(kAllLanes, __m512(power), kDown));
  VecF p = splat(1.8793185610e-3f);
  p = p * f + 8.9909952717e-3f;
  p = p * f + 5.5818675856e-2f;
  p = p * f + 2.4015927148e-1f;
  p = p * f + 6.9315173883e-1f;
  p = p * f + 1.0f;
  return VecF(_mm512_maskz_scalef_ps(kAllLanes, __m512(p), __m512(power)));
}
#else
// 2^f for |f| <= 1/2 with 2^0 = 1: minimax of degree 5. Relative error at most 3.4 u, fused 2.9 u.
inline VecF exp2_fraction(VecF f) {
  VecF p = splat(1.3264727141e-3f);
  p = p * f + 9.6715126399e-3f;
  p = p * f + 5.5507337435e-2f;
  p = p * f + 2.4022242085e-1f;
  p = p * f + 6.9314697760e-1f;
  return p * f + 1.0f;
}

// x = i + f with i whole: returns 2^i 2^f, for i from -126 to 127.
struct Split {
  VecF whole, fraction;
};
inline VecF exp2_of(Split x) {
  return bit_cast_f(bit_cast_i(exp2_fraction(x.fraction)) + (__builtin_convertvector(x.whole, VecI) << 23));
}
inline VecF nearest_whole(VecF x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: no bits are left for a fraction
  return rounded(x + kRound) - kRound;
}

// 2^(a b), and the nearest of 2^-126 and 2^127. Relative error at most 3.4 u + 0.7 u |a b|; never above 1 for a b <= 0.
inline VecF exp2_product(VecF a, VecF b) {
  const VecF x = min(splat(127.0f), max(splat(-126.0f), rounded(a * b)));  // in this order NaN stays NaN
  const VecF whole = nearest_whole(x);
  return exp2_of({whole, x - whole});
}
#endif

// e^x for -87 <= x <= 88, and the nearest of those beyond. Relative error at most 3.4 u + 1.3 u |x|; where
// multiply-adds are fused the product with log2(e) is not rounded, and 0.3 u |x| is left, but with AVX-512 that gain is
// given for the two operations that exp2_product saves.
inline VecF scan_exp(VecF x) {
  const VecF bounded = min(splat(88.0f), max(splat(-87.0f), x));
#if defined(COLUBER_ISA_AVX512)
  return exp2_product(bounded, splat(kLog2E));
#else
  const VecF whole = nearest_whole(rounded(bounded) * kLog2E);
  return exp2_of({whole, multiply_add(bounded, kLog2E, -whole)});
#endif
}

// 1 / x for 1 <= x <= 2^127. Relative error at most 1.1 u. A division of 16 floats takes 16 cycles or more; from 14
// good bits a step of Newton takes three operations.
inline VecF reciprocal(VecF x) {
#if defined(COLUBER_ISA_AVX512)
  const VecF r = VecF(_mm512_maskz_rcp14_ps(kAllLanes, __m512(x)));
  return r + r * (1.0f - x * r);
#else
  return 1.0f / x;
#endif
}

// ln(1 + t) / t for 0 <= t <= 1: minimax of degree 8. Relative error at most 4 u.
inline VecF log1p_ratio(VecF t) {
  VecF p = splat(5.232694111e-3f);
  p = p * t - 2.950523728e-2f;
  p = p * t + 7.822594783e-2f;
  p = p * t - 1.366324530e-1f;
  p = p * t + 1.910600644e-1f;
  p = p * t - 2.484298211e-1f;
  p = p * t + 3.331909679e-1f;
  p = p * t - 4.999949314e-1f;
  return p * t + 1.0f;
}

// ln(1 + e^x) and its slope 1 / (1 + e^-x). Relative errors at most 8 u, and 1.3 u |x| more below 0 (from e^x).
struct Softplus {
  VecF value, slope;
};
inline VecF scan_softplus(VecF x) {
  const VecF t = scan_exp(-abs(x));
  return rounded(t * log1p_ratio(t)) + max(splat(0.0f), x);
}
inline Softplus scan_softplus_slope(VecF x) {
  const VecF t = scan_exp(-abs(x));
  const VecF above = reciprocal(1.0f + t);
  return {rounded(t * log1p_ratio(t)) + max(splat(0.0f), x), x < 0.0f ? t * above : above};
}
inline VecF scan_sigmoid(VecF x) {
  return reciprocal(1.0f + scan_exp(-x));
}

// Lanes come in pairs kWidth apart: the lower ones of all pairs of a (where they lie) and of b (moved up beside them),
// and the upper ones of a (moved down) and of b.
template <int kWidth, int... kLane>
inline VecF lower_half(VecF a, VecF b, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(a, b, ((kLane & kWidth) != 0 ? kLanes + kLane - kWidth : kLane)...);
}
template <int kWidth, int... kLane>
inline VecF upper_half(VecF a, VecF b, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(a, b, ((kLane & kWidth) != 0 ? kLanes + kLane : kLane + kWidth)...);
}
// rows[i][j] and rows[j][i] change places: blocks of kWidth, then of half that size.
template <int kWidth>
inline void transpose(VecF* rows) {
  if constexpr (kWidth > 0) {
    constexpr auto kAll = std::make_integer_sequence<int, kLanes>{};
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if ((i & kWidth) != 0) continue;
      const VecF a = rows[i], b = rows[i + kWidth];
      rows[i] = lower_half<kWidth>(a, b, kAll);
      rows[i + kWidth] = upper_half<kWidth>(a, b, kAll);
    }
    transpose<kWidth / 2>(rows);
  }
}

// The lower lanes of all pairs of a and the upper ones of b where they lie, and the other half, moved into their
// places: a blend and one shuffle, where two shuffles would wait for the one unit that has them.
template <int kWidth, int... kLane>
inline VecF near_half(VecF a, VecF b, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(a, b, ((kLane & kWidth) != 0 ? kLanes + kLane : kLane)...);
}
template <int kWidth, int... kLane>
inline VecF far_half(VecF a, VecF b, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(a, b, ((kLane & kWidth) != 0 ? kLanes + kLane - kWidth : kLane + kWidth)...);
}

// Lane i of the result is the sum of the lanes of rows[i], as a tree.
template <int kWidth = kLanes / 2>
inline VecF sum_rows(VecF* rows) {
  constexpr auto kAll = std::make_integer_sequence<int, kLanes>{};
#pragma GCC unroll 8
  for (int i = 0; i < kWidth; ++i)
    rows[i] = near_half<kWidth>(rows[i], rows[i + kWidth], kAll) + far_half<kWidth>(rows[i], rows[i + kWidth], kAll);
  if constexpr (kWidth > 1) return sum_rows<kWidth / 2>(rows);
  return rows[0];
}

// A state, a decay or a coefficient of kLanes channels: real, or re and im.
struct Real {
  static constexpr int kElems = 1;
  VecF re;

  static Real zero() { return {VecF{}}; }
  static Real load_tile(const float* p) { return {load(p)}; }
  static Real broadcast(const float* p) { return {all_lanes(*p)}; }
  void store_tile(float* p) const { store(p, re); }

  // e^(dt A) of a scaled A (ScanCall::A).
  static Real decay(VecF dt, Real A) { return {exp2_product(dt, A.re)}; }
  // a h + x B, in the order that every caller shares.
  static Real next(Real a, Real h, VecF x, Real B) { return {a.re * h.re + rounded(x * B.re)}; }
  // y + C h, where y ends as kOutputScale times the sum.
  static constexpr float kOutputScale = 1;
  static VecF add_output(VecF y, Real C, Real h) { return y + C.re * h.re; }

  // What backward needs: sum + x conj(b), a conj(b), and sum + Re(a conj(b)).
  static Real add_scaled_conj(Real sum, VecF x, Real b) { return {sum.re + x * b.re}; }
  static Real add_scaled(Real sum, VecF x, Real a) { return {sum.re + x * a.re}; }
  static Real times(Real a, Real b) { return {a.re * b.re}; }
  static Real times_conj(Real a, Real b) { return {a.re * b.re}; }
  static VecF add_real_of_times_conj(VecF sum, Real a, Real b) { return sum + a.re * b.re; }
};

struct Complex {
  static constexpr int kElems = 2;
  VecF re, im;

  static Complex zero() { return {VecF{}, VecF{}}; }
  static Complex load_tile(const float* p) { return {load(p), load(p + kLanes)}; }
  static Complex broadcast(const float* p) { return {all_lanes(p[0]), all_lanes(p[1])}; }
  void store_tile(float* p) const {
    store(p, re);
    store(p + kLanes, im);
  }

  // Turns beyond 2^20 have no phase left in a float and are cut off there. Absolute error of the phase factor at most
  // 4 u + 6.3 u |turns|.
  static Complex decay(VecF dt, Complex A) {
    constexpr float kQuarters = 3145728.0f;  // 1.5 * 2^21: the sum holds quarters in its low bits
    const VecF turns = min(splat(1048576.0f), max(splat(-1048576.0f), rounded(dt * A.im)));
    const VecF shifted = rounded(turns + kQuarters);
    const VecF f = turns - (shifted - kQuarters);  // |f| <= 1/8
    const VecF g = f * f;
    VecF sine = splat(-7.5402067973e1f);
    sine = sine * g + 8.1592553542e1f;
    sine = sine * g - 4.1341662633e1f;
    sine = (sine * g + 6.2831852879f) * f;
    VecF cosine = splat(5.9220288318e1f);
    cosine = cosine * g - 8.5443246019e1f;
    cosine = cosine * g + 6.4939325493e1f;
    cosine = cosine * g - 1.9739208705e1f;
    cosine = cosine * g + 1.0f;
    const VecI quarter = bit_cast_i(shifted);
    const VecI odd = (quarter & 1) != 0;
    const VecI sine_sign = (quarter & 2) << 30, cosine_sign = ((quarter + 1) & 2) << 30;
    const VecF s = bit_cast_f(bit_cast_i(odd ? cosine : sine) ^ sine_sign);
    const VecF c = bit_cast_f(bit_cast_i(odd ? sine : cosine) ^ cosine_sign);
    const VecF size = exp2_product(dt, A.re);
    return {size * c, size * s};
  }
  static Complex next(Complex a, Complex h, VecF x, Complex B) {
    return {a.re * h.re + (rounded(x * B.re) - rounded(a.im * h.im)),
            a.re * h.im + (rounded(x * B.im) + rounded(a.im * h.re))};
  }
  static constexpr float kOutputScale = 2;  // y = 2 Re(C h)
  static VecF add_output(VecF y, Complex C, Complex h) { return (y + C.re * h.re) - C.im * h.im; }

  static Complex add_scaled_conj(Complex sum, VecF x, Complex b) { return {sum.re + x * b.re, sum.im - x * b.im}; }
  static Complex add_scaled(Complex sum, VecF x, Complex a) { return {sum.re + x * a.re, sum.im + x * a.im}; }
  static Complex times(Complex a, Complex b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }
  static Complex times_conj(Complex a, Complex b) { return {a.re * b.re + a.im * b.im, a.im * b.re - a.re * b.im}; }
  static VecF add_real_of_times_conj(VecF sum, Complex a, Complex b) { return (sum + a.re * b.re) + a.im * b.im; }
};

// f(number of states as a constant, first state) over n states in blocks of kBlock, then of half as many, down to 1.
template <int kBlock, class F>
inline void for_state_blocks(std::int64_t n, F&& f, std::int64_t first = 0) {
  for (; first + kBlock <= n; first += kBlock) f(std::integral_constant<int, kBlock>{}, first);
  if constexpr (kBlock > 1) for_state_blocks<kBlock / 2>(n, f, first);
}

}  // namespace coluber::cpu::COLUBER_ISA
