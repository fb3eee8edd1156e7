// adamw_step in two halves: what takes the host its time, which may pass while a GPU is busy with the gradients, and
// the start of the kernels, for which the norm of those gradients must be known.
#pragma once

#include <span>
#include <vector>

#include "coluber/ops.h"
#include "kernels/optimizer.h"

namespace coluber::ops {

class AdamWStep {
 public:
  // Checks all tensors, which must stay as they are until run(). See adamw_step.
  AdamWStep(Context& ctx, std::span<const AdamWTensors> tensors);
  void run(const AdamWArgs& args);

 private:
  Context& ctx_;
  std::vector<AdamWTensors> tensors_;      // gradients without gaps
  std::vector<AdamWParams<float>> table_;  // of those on a GPU: sizes and addresses
};

}  // namespace coluber::ops
