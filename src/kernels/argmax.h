// argmax: the column of the largest number of each row, the lowest on a tie; NaN is never the largest. 0 for a row
// without numbers. Called by ops/argmax.cc.
#pragma once

#include <cstdint>

#include "core/cuda.h"

namespace coluber::cuda {

void argmax_rows(const Stream& stream, const float* x, std::int64_t rows, std::int64_t columns, std::int64_t ld,
                 std::int32_t* best);

}  // namespace coluber::cuda
