// Ids that come from outside, checked where they are on the CPU; no kernel checks them again.
#pragma once

#include <cstdint>
#include <string_view>

#include "coluber/tensor.h"

namespace coluber::ops {

// Of contiguous ids (i32, CPU) every one in [0, v). Throws naming the first that is not.
void check_ids(const Tensor& ids, std::int64_t v);
// Of contiguous targets (i32, CPU) every one -1 or in [0, v). Returns how many count.
std::int64_t check_targets(std::string_view op, const Tensor& targets, std::int64_t v);

}  // namespace coluber::ops
