// What ops of small things have for other ops.
#pragma once

#include <vector>

#include "coluber/tensor.h"

namespace coluber::ops {

// Adds the sum of squares of tensors on one GPU (f32, bf16 or f16) to `sum` () f64 there. Nothing waits for it.
void queue_sum_of_squares(const std::vector<Tensor>& tensors, const Tensor& sum);

}  // namespace coluber::ops
