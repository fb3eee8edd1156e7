#include "kernels/mamba_step.h"

#include "kernels/no_cuda/refuse.h"

namespace coluber::cuda {

bool takes_norm_linear(const NormLinearParams&) {
  return false;
}
void norm_linear(const Stream& stream, const NormLinearParams&) {
  refuse_kernel(stream);
}
bool takes_dt_scan(const MambaStepParams&) {
  return false;
}
bool takes_conv_x_proj(const MambaStepParams&) {
  return false;
}
std::int64_t mamba_step_partials(const MambaStepParams&) {
  return 1;
}
void mamba_step_conv_x_proj(const Stream& stream, const MambaStepParams&) {
  refuse_kernel(stream);
}
void mamba_step_dt_scan(const Stream& stream, const MambaStepParams&) {
  refuse_kernel(stream);
}

}  // namespace coluber::cuda
