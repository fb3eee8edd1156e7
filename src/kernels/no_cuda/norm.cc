#include "kernels/norm.h"

#include "kernels/no_cuda/refuse.h"

namespace coluber::cuda {

template <class X, class T>
void norm_forward(const Stream& stream, const NormParams<X, T, float>&) {
  refuse_kernel(stream);
}
template <class X, class T>
void norm_backward(const Stream& stream, const NormParams<X, T, float>&, const NormGradParams<X, T, float>&) {
  refuse_kernel(stream);
}

template void norm_forward(const Stream&, const NormParams<float, float, float>&);
template void norm_forward(const Stream&, const NormParams<bfloat16, bfloat16, float>&);
template void norm_forward(const Stream&, const NormParams<float16, float16, float>&);
template void norm_forward(const Stream&, const NormParams<float, bfloat16, float>&);
template void norm_forward(const Stream&, const NormParams<float, float16, float>&);
template void norm_backward(const Stream&, const NormParams<float, float, float>&,
                            const NormGradParams<float, float, float>&);
template void norm_backward(const Stream&, const NormParams<bfloat16, bfloat16, float>&,
                            const NormGradParams<bfloat16, bfloat16, float>&);
template void norm_backward(const Stream&, const NormParams<float16, float16, float>&,
                            const NormGradParams<float16, float16, float>&);
template void norm_backward(const Stream&, const NormParams<float, bfloat16, float>&,
                            const NormGradParams<float, bfloat16, float>&);
template void norm_backward(const Stream&, const NormParams<float, float16, float>&,
                            const NormGradParams<float, float16, float>&);

}  // namespace coluber::cuda
