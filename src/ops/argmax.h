// The best id of each row of logits, on the device that has them.
#pragma once

#include "coluber/tensor.h"

namespace coluber::ops {

// ids (b) i32 = argmax over the first `columns` of logits (b,v) f32; the lowest on a tie; NaN is never the best. On a
// GPU.
void argmax(const Tensor& logits, std::int64_t columns, const Tensor& ids);

}  // namespace coluber::ops
