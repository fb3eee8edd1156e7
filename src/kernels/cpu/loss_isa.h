// What cpu/loss.cc compiles once per instruction set.
#pragma once

#include "kernels/cpu/isa.h"
#include "kernels/loss.h"

namespace coluber::cpu {

COLUBER_DECLARE_PER_ISA(void, cross_entropy_rows, (const CrossEntropyRowsParams<float>& params))

}  // namespace coluber::cpu
