// The inner loops of norm.cc, per instruction set.
#pragma once

#include <cstdint>

#include "kernels/cpu/isa.h"
#include "kernels/norm.h"

namespace coluber::cpu {

// Rows [begin, end). `buffer` holds a group.
COLUBER_DECLARE_PER_ISA(void, norm_forward_rows,
                        (const NormParams<float>& p, std::int64_t begin, std::int64_t end, float* buffer))
// The same; adds to the sums (m) of this part of the rows. `buffer` holds two groups per row taken together, and two
// rows.
COLUBER_DECLARE_PER_ISA(void, norm_backward_rows,
                        (const NormParams<float>& p, const NormGradParams<float>& g, std::int64_t begin,
                         std::int64_t end, float* buffer, double* weight_sum, double* bias_sum))

}  // namespace coluber::cpu
