#include "kernels/reference/norm.h"

namespace coluber::cpu {

void norm_forward(ThreadPool&, Arena&, const NormParams<float>& p) {
  reference::norm_forward(p);
}

void norm_backward(ThreadPool&, Arena&, const NormParams<float>& p, const NormGradParams<float>& g) {
  reference::norm_backward(p, g);
}

}  // namespace coluber::cpu
