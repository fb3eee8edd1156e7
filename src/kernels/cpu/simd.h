// A small portable vector of floats for the sources compiled per instruction set (isa.h). spans.h loops with it.
//
// Built on the vector extensions that gcc and clang share, so the same lines give SSE2, AVX2, AVX-512 and NEON code.
// kLanes is 4, 8 or 16. Arithmetic operators work lane by lane; a * b + c contracts to a fused multiply-add.
// Error bounds stand beside each function and are repeated by tests/kernels/simd_test.cc.
#pragma once

#include <cstdint>
#include <cstring>

#include "coluber/dtype.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

#ifndef COLUBER_ISA
#define COLUBER_ISA base
#endif

namespace coluber::cpu::COLUBER_ISA {

#if defined(COLUBER_ISA_AVX512)
inline constexpr int kLanes = 16;
#elif defined(COLUBER_ISA_AVX2)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif

using VecF = float __attribute__((vector_size(kLanes * 4)));
using VecI = std::int32_t __attribute__((vector_size(kLanes * 4)));
using VecU = std::uint32_t __attribute__((vector_size(kLanes * 4)));
using VecH = std::uint16_t __attribute__((vector_size(kLanes * 2)));

inline VecF load(const float* p) {
  VecF v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, VecF v) {
  std::memcpy(p, &v, sizeof v);
}

// x, of which the compiler knows nothing more: what made it and what is made of it are not rearranged together.
inline VecF opaque(VecF x) {
#if defined(COLUBER_ISA_AVX512)
  asm("" : "+v"(x));
#elif defined(__x86_64__)
  asm("" : "+x"(x));
#elif defined(__aarch64__)
  asm("" : "+w"(x));
#else
  asm("" : "+m"(x));
#endif
  return x;
}

// stream(): a store past the caches, which reads no line for it; `p` is aligned to a vector. Other threads see what was
// stored after order_streams() on the thread that did.
inline bool is_aligned(const float* p) {
  return reinterpret_cast<std::uintptr_t>(p) % sizeof(VecF) == 0;
}
inline void stream(float* p, VecF v) {
#if defined(COLUBER_ISA_AVX512)
  _mm512_stream_ps(p, reinterpret_cast<__m512>(v));
#elif defined(COLUBER_ISA_AVX2)
  _mm256_stream_ps(p, reinterpret_cast<__m256>(v));
#elif defined(__x86_64__)
  _mm_stream_ps(p, reinterpret_cast<__m128>(v));
#else
  store(p, v);
#endif
}
inline void order_streams() {
#ifdef __x86_64__
  _mm_sfence();
#endif
}

// Past the caches if `streams` and the address allows.
inline void store_whole(float* to, VecF v, bool streams) {
  if (streams && is_aligned(to)) return stream(to, v);
  store(to, v);
}

inline VecF splat(float x) {
  return x - VecF{};  // x - 0 is x, so compilers broadcast alone; x + 0 is not where x is -0, so they add as well
}

// The first n lanes (0 <= n <= kLanes); the others read as 0 and are not written.
#if defined(COLUBER_ISA_AVX512)
inline VecF load_first(const float* p, std::int64_t n) {
  return reinterpret_cast<VecF>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p));
}
inline void store_first(float* p, VecF v, std::int64_t n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), reinterpret_cast<__m512>(v));
}
#else
inline VecF load_first(const float* p, std::int64_t n) {
  VecF v{};
  std::memcpy(&v, p, static_cast<std::size_t>(n) * sizeof(float));
  return v;
}
inline void store_first(float* p, VecF v, std::int64_t n) {
  std::memcpy(p, &v, static_cast<std::size_t>(n) * sizeof(float));
}
#endif

// bf16 -> f32 is exact: sixteen zero bits are appended.
inline VecF load_bf16(const bfloat16* p) {
  VecH half;
  std::memcpy(&half, p, sizeof half);
  const VecU wide = __builtin_convertvector(half, VecU) << 16;
  VecF v;
  std::memcpy(&v, &wide, sizeof v);
  return v;
}
// f32 -> bf16 to nearest even; NaN is not preserved.
inline void store_bf16(bfloat16* p, VecF v) {
  VecU u;
  std::memcpy(&u, &v, sizeof u);
  const VecH half = __builtin_convertvector((u + 0x7fffu + ((u >> 16) & 1u)) >> 16, VecH);
  std::memcpy(static_cast<void*>(p), &half, sizeof half);
}

inline VecF bit_cast_f(VecI v) {
  VecF out;
  std::memcpy(&out, &v, sizeof out);
  return out;
}
inline VecI bit_cast_i(VecF v) {
  VecI out;
  std::memcpy(&out, &v, sizeof out);
  return out;
}

// The greater and the smaller; b where either is a NaN, so a clamp keeps NaNs when x stands second: max(splat(0), x).
#if defined(COLUBER_ISA_AVX512)
inline constexpr __mmask16 kAllLanes = 0xffff;  // gcc 12 warns of an uninitialized value in the forms without a mask
inline VecF max(VecF a, VecF b) {
  return reinterpret_cast<VecF>(
      _mm512_maskz_max_ps(kAllLanes, reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
}
inline VecF min(VecF a, VecF b) {
  return reinterpret_cast<VecF>(
      _mm512_maskz_min_ps(kAllLanes, reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
}
#elif defined(COLUBER_ISA_AVX2)
inline VecF max(VecF a, VecF b) {
  return reinterpret_cast<VecF>(_mm256_max_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
}
inline VecF min(VecF a, VecF b) {
  return reinterpret_cast<VecF>(_mm256_min_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
}
#else
inline VecF max(VecF a, VecF b) {
  return a > b ? a : b;
}
inline VecF min(VecF a, VecF b) {
  return a < b ? a : b;
}
#endif
inline VecF abs(VecF a) {
  return bit_cast_f(bit_cast_i(a) & 0x7fffffff);
}

// Loaded once: else gcc makes the value an operand in memory of all that use it, and loads run out before additions do.
template <class V>
inline void hold(V& v) {
#if defined(__aarch64__)
  asm("" : "+w"(v));
#elif defined(__x86_64__) && defined(COLUBER_ISA_AVX512)
  asm("" : "+v"(v));
#elif defined(__x86_64__)
  asm("" : "+x"(v));
#else
  static_cast<void>(v);
#endif
}

// Sum of all lanes in a fixed, pairwise order.
inline float reduce_add(VecF v) {
  float lane[kLanes];
  std::memcpy(lane, &v, sizeof lane);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  return lane[0];
}
inline float reduce_max(VecF v) {
  float lane[kLanes];
  std::memcpy(lane, &v, sizeof lane);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] = lane[i] > lane[i + width] ? lane[i] : lane[i + width];
  return lane[0];
}

// 2^x. Relative error at most 2.5e-7 (about 2 ulp) where 2^x is a normal number; 0 (or, with AVX-512 on a thread that
// keeps denormals, a denormal) below -126, infinity from 128 on, NaN for NaN.
// x = i + f with |f| <= 1/2; 2^f by a degree-6 polynomial; 2^i by adding i to the exponent.
inline VecF exp2(VecF x) {
  constexpr float kC6 = 1.5403530393381609954e-4f, kC5 = 1.3333558146428443423e-3f, kC4 = 9.6181291076284771619e-3f,
                  kC3 = 5.5504108664821579953e-2f, kC2 = 2.4022650695910071233e-1f, kC1 = 6.9314718055994530942e-1f;
#if defined(COLUBER_ISA_AVX512)
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  const VecF i = reinterpret_cast<VecF>(_mm512_maskz_roundscale_ps(kAllLanes, reinterpret_cast<__m512>(x), kNearest));
  const VecF f = reinterpret_cast<VecF>(
      _mm512_maskz_reduce_ps(kAllLanes, reinterpret_cast<__m512>(x), kNearest));  // 0 for infinity
#else
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer kept in the low mantissa bits
  const VecF clamped = min(splat(128.0f), max(splat(-126.0f), x));
  const VecF shifted = clamped + kRound;
  const VecF f = clamped - (shifted - kRound);
#endif
  VecF p = splat(kC6);
  p = p * f + kC5;
  p = p * f + kC4;
  p = p * f + kC3;
  p = p * f + kC2;
  p = p * f + kC1;
  p = p * f + 1.0f;
#if defined(COLUBER_ISA_AVX512)
  return reinterpret_cast<VecF>(
      _mm512_maskz_scalef_ps(kAllLanes, reinterpret_cast<__m512>(p), reinterpret_cast<__m512>(i)));
#else
  const VecF scaled = bit_cast_f(bit_cast_i(p) + (bit_cast_i(shifted) << 23));
  return x >= -126.0f ? scaled : max(splat(0.0f), x);  // 0, or NaN
#endif
}

// e^x; relative error at most 3e-7 + 7.5e-8 |x|: the product x log2(e) and its factor are rounded. Ends as exp2.
inline VecF exp(VecF x) {
  return exp2(x * 1.44269504088896340736f);
}

// 1 / (1 + e^-x) and x / (1 + e^-x); absolute error at most 4e-7 and 4e-7 max(1, |x|).
inline VecF sigmoid(VecF x) {
  return 1.0f / (1.0f + exp2(x * -1.44269504088896340736f));
}
inline VecF silu(VecF x) {
  return x / (1.0f + exp2(x * -1.44269504088896340736f));
}

// ln(x) for normal x > 0: x = m 2^e with m in [sqrt(1/2), sqrt(2)), ln m by atanh series in s = (m-1)/(m+1).
// Relative error at most 4e-7.
inline VecF log(VecF x) {
  const VecI bits = bit_cast_i(x);
  const VecI e = (bits - 0x3f3504f3) >> 23;  // 0x3f3504f3 = sqrt(1/2)
  const VecF m = bit_cast_f(bits - (e << 23));
  const VecF s = (m - 1.0f) / (m + 1.0f);
  const VecF s2 = s * s;
  VecF p = splat(2.0f / 9);
  p = p * s2 + 2.0f / 7;
  p = p * s2 + 2.0f / 5;
  p = p * s2 + 2.0f / 3;
  p = p * s2 + 2.0f;
  return __builtin_convertvector(e, VecF) * 0.69314718055994530942f + s * p;
}

// ln(1 + e^x) = max(x, 0) + log1p(e^-|x|); log1p(t) = 2 atanh(t / (2 + t)) keeps small t accurate.
// Relative error at most 6e-7, and 7.5e-8 |x| more for negative x, from e^x; 0 where e^x is.
inline VecF softplus(VecF x) {
  const VecF t = exp(-abs(x));
  const VecF s = t / (2.0f + t);  // in [0, 1/3]
  const VecF s2 = s * s;
  VecF p = splat(2.0f / 13);
  p = p * s2 + 2.0f / 11;
  p = p * s2 + 2.0f / 9;
  p = p * s2 + 2.0f / 7;
  p = p * s2 + 2.0f / 5;
  p = p * s2 + 2.0f / 3;
  p = p * s2 + 2.0f;
  return max(splat(0.0f), x) + s * p;
}

}  // namespace coluber::cpu::COLUBER_ISA
