#include "kernels/reference/causal_conv1d.h"

namespace coluber::cpu {

void causal_conv1d_forward(ThreadPool&, Arena&, const CausalConv1dParams<float>& p) {
  reference::causal_conv1d_forward(p);
}

void causal_conv1d_backward(ThreadPool&, Arena&, const CausalConv1dParams<float>& p,
                            const CausalConv1dGradParams<float>& g) {
  reference::causal_conv1d_backward(p, g);
}

}  // namespace coluber::cpu
