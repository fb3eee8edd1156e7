#include "kernels/causal_conv1d.h"

#include "kernels/no_cuda/refuse.h"

namespace coluber::cuda {

template <class T>
void causal_conv1d_forward(const Stream& stream, const CausalConv1dParams<T, float>&) {
  refuse_kernel(stream);
}
template <class T>
void causal_conv1d_backward(const Stream& stream, const CausalConv1dParams<T, float>&,
                            const CausalConv1dGradParams<T, float>&) {
  refuse_kernel(stream);
}

template void causal_conv1d_forward(const Stream&, const CausalConv1dParams<float, float>&);
template void causal_conv1d_forward(const Stream&, const CausalConv1dParams<bfloat16, float>&);
template void causal_conv1d_forward(const Stream&, const CausalConv1dParams<float16, float>&);
template void causal_conv1d_backward(const Stream&, const CausalConv1dParams<float, float>&,
                                     const CausalConv1dGradParams<float, float>&);
template void causal_conv1d_backward(const Stream&, const CausalConv1dParams<bfloat16, float>&,
                                     const CausalConv1dGradParams<bfloat16, float>&);
template void causal_conv1d_backward(const Stream&, const CausalConv1dParams<float16, float>&,
                                     const CausalConv1dGradParams<float16, float>&);

}  // namespace coluber::cuda
