// The inner loop of optimizer.cc, per instruction set.
#pragma once

#include <cstdint>

#include "kernels/cpu/isa.h"
#include "kernels/optimizer.h"

namespace coluber::cpu {

// Elements [begin, end).
COLUBER_DECLARE_PER_ISA(void, adamw_span, (const AdamWParams<float>& p, std::int64_t begin, std::int64_t end))

}  // namespace coluber::cpu
