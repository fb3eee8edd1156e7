// The functions of kernels/cpu/selective_scan_math.h over arrays, once per instruction set.
#pragma once

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace coluber::cpu {

enum class ScanFunction { kExp, kSoftplus, kSoftplusSlope, kSigmoid, kReciprocal };

// n: a multiple of 16.
COLUBER_DECLARE_PER_ISA(void, scan_apply, (ScanFunction function, const float* x, float* y, std::int64_t n))
COLUBER_DECLARE_PER_ISA(void, scan_exp2_product, (const float* a, const float* b, float* y, std::int64_t n))
COLUBER_DECLARE_PER_ISA(void, scan_phase, (const float* dt, const float* turns, float* re, float* im, std::int64_t n))
// (16,16) matrices, of which the first lanes x lanes numbers are used; returns the lanes.
COLUBER_DECLARE_PER_ISA(int, scan_transpose, (float* matrix))
COLUBER_DECLARE_PER_ISA(int, scan_sum_rows, (const float* matrix, float* sums))

}  // namespace coluber::cpu
