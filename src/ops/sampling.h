// Draws the next ids of rows that are decoded together, on the GPU that has their logits.
#pragma once

#include <span>
#include <vector>

#include "coluber/tensor.h"
#include "kernels/sampling.h"

namespace coluber::ops {

class RowSampler {
 public:
  // `v`: ids are below it. Until set(), rows draw from the softmax of their logits with seed 0.
  RowSampler(std::int64_t rows, std::int64_t v, Device device);

  static bool takes(std::int64_t v) { return v <= cuda::kMostSampledIds; }
  // How each row draws from here on, and the ids that it has seen.
  void set(const std::vector<SamplingRow>& how, const std::vector<std::span<const std::int32_t>>& seen) const;
  // ids (rows) i32 from logits (rows, v or more) f32, both on the device; -1 where a logit is NaN or infinity, or none
  // is finite. Does not wait.
  void draw(const Tensor& logits, const Tensor& ids) const;

 private:
  std::int64_t v_;
  Tensor how_;      // bytes of SamplingRow, one after the other
  Tensor seen_;     // (rows,v) u8
  Tensor weights_;  // (rows,v) i64: scratch
};

}  // namespace coluber::ops
