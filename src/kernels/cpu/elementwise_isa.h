// The inner loops of elementwise.cc over contiguous spans, per instruction set.
#pragma once

#include <cstdint>

#include "kernels/cpu/isa.h"

namespace coluber::cpu {

// Words that decide which elements of a span dropout keeps.
struct DropoutMask {
  std::uint64_t seed = 0, stream = 0, first = 0;  // first: index of the span's first element
  std::uint32_t threshold = 0;
  float factor = 1;
};

COLUBER_DECLARE_PER_ISA(void, add_span, (float* accumulator, const float* x, std::int64_t n, float scale))
COLUBER_DECLARE_PER_ISA(void, scale_span, (float* x, std::int64_t n, float scale))
COLUBER_DECLARE_PER_ISA(void, neg_exp_span, (float* y, const float* x, std::int64_t n))
COLUBER_DECLARE_PER_ISA(double, sum_of_squares_span, (const float* x, std::int64_t n))
COLUBER_DECLARE_PER_ISA(void, dropout_span, (float* y, const float* x, std::int64_t n, const DropoutMask& mask))

}  // namespace coluber::cpu
