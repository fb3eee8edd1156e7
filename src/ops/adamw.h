// adamw_step in two halves: what takes the host its time, which may pass while a GPU is busy with the gradients, and
// the start of the kernels, for which the norm of those gradients must be known.
#pragma once

#include <span>
#include <vector>

#include "coluber/ops.h"
#include "kernels/optimizer.h"

namespace coluber::ops {

// Where an update that is queued finds its numbers, all on the GPU of its tensors and contiguous.
struct AdamWQueued {
  Tensor inputs;    // (4) f64: lr, 1 - beta1^t, 1 - beta2^t, a factor on all gradients
  Tensor losses;    // (any) f64: the update is left out where one of them or the norm is not finite, and so are all
                    // after it, until `scalars` are zeros again
  Tensor norm;      // () f64: that of the gradients is written here
  Tensor scalars;   // (adamw_scalars_bytes()) u8: from zeros on, of the update
  double clip = 0;  // largest norm; 0: none
};
std::int64_t adamw_scalars_bytes();

class AdamWStep {
 public:
  // Checks all tensors, which must stay as they are until run(). See adamw_step.
  AdamWStep(Context& ctx, std::span<const AdamWTensors> tensors);
  void run(const AdamWArgs& args);
  // On a GPU the same without anything that the host must know of the gradients: lr, grad_scale and step of `args` are
  // not looked at.
  void run_queued(const AdamWArgs& args, const AdamWQueued& queued);

 private:
  Context& ctx_;
  std::vector<AdamWTensors> tensors_;      // gradients without gaps
  std::vector<AdamWParams<float>> table_;  // of those on a GPU: sizes and addresses
};

}  // namespace coluber::ops
