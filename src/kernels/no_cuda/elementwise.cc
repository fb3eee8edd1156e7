#include "kernels/elementwise.h"

#include "kernels/no_cuda/refuse.h"

namespace coluber::cuda {

template <class T>
void add(const Stream& stream, View<T, 2>, View<const T, 2>, float) {
  refuse_kernel(stream);
}
template <class T>
void scale(const Stream& stream, View<T, 2>, float) {
  refuse_kernel(stream);
}
void neg_exp(const Stream& stream, const float*, float*, std::int64_t) {
  refuse_kernel(stream);
}
template <class T>
void multiply(const Stream& stream, const T*, const T*, T*, std::int64_t) {
  refuse_kernel(stream);
}
template <class T>
void sum_of_squares(const Stream& stream, std::span<const std::span<const T>>, double*) {
  refuse_kernel(stream);
}
template <class T>
void dropout(const Stream& stream, const DropoutParams<T>&) {
  refuse_kernel(stream);
}

#define COLUBER_INSTANTIATE(T)                                                               \
  template void add(const Stream&, View<T, 2>, View<const T, 2>, float);                     \
  template void scale(const Stream&, View<T, 2>, float);                                     \
  template void multiply(const Stream&, const T*, const T*, T*, std::int64_t);               \
  template void sum_of_squares(const Stream&, std::span<const std::span<const T>>, double*); \
  template void dropout(const Stream&, const DropoutParams<T>&);
COLUBER_INSTANTIATE(float)
COLUBER_INSTANTIATE(bfloat16)
COLUBER_INSTANTIATE(float16)
#undef COLUBER_INSTANTIATE

}  // namespace coluber::cuda
