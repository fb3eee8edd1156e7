// The functions of simd.h over an array, once per instruction set.
#pragma once

#include <cstdint>

#include "coluber/dtype.h"
#include "kernels/cpu/isa.h"

namespace coluber::cpu {

enum class SimdFunction { kExp2, kExp, kSigmoid, kSilu, kLog, kSoftplus, kAbs };

COLUBER_DECLARE_PER_ISA(int, simd_lanes, ())
COLUBER_DECLARE_PER_ISA(void, simd_apply, (SimdFunction function, const float* x, float* y, std::int64_t n))
COLUBER_DECLARE_PER_ISA(void, simd_max_min, (const float* a, const float* b, float* max, float* min))  // one vector
COLUBER_DECLARE_PER_ISA(void, simd_reduce, (const float* x, float* sum, float* max))                   // one vector
COLUBER_DECLARE_PER_ISA(void, simd_widen_bf16, (const bfloat16* x, float* y, std::int64_t n))
COLUBER_DECLARE_PER_ISA(void, simd_round_bf16, (const float* x, bfloat16* y, std::int64_t n))
COLUBER_DECLARE_PER_ISA(void, simd_copy_first, (const float* x, float* y, std::int64_t n))               // one vector
COLUBER_DECLARE_PER_ISA(void, simd_double_span, (const float* x, float* y, std::int64_t n, float* sum))  // spans.h

}  // namespace coluber::cpu
