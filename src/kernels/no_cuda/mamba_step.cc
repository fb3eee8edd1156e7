#include "kernels/mamba_step.h"

#include "kernels/no_cuda/refuse.h"

namespace coluber::cuda {

bool takes_norm_linear(int, const NormLinearParams&) {
  return false;
}
void norm_linear(const Stream& stream, const NormLinearParams&) {
  refuse_kernel(stream);
}
bool takes_mamba_step(int, const MambaStepParams&) {
  return false;
}
void mamba_step(const Stream& stream, const MambaStepParams&) {
  refuse_kernel(stream);
}

}  // namespace coluber::cuda
