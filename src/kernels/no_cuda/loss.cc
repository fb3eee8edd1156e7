#include "kernels/loss.h"

#include "coluber/dtype.h"
#include "kernels/no_cuda/refuse.h"

namespace coluber::cuda {

template <class T, class G>
void cross_entropy_rows(const Stream& stream, const CrossEntropyRowsParams<T, G>&) {
  refuse_kernel(stream);
}
void cross_entropy_total(const Stream& stream, const double*, std::int64_t, const double*, double*) {
  refuse_kernel(stream);
}

template void cross_entropy_rows(const Stream&, const CrossEntropyRowsParams<float>&);
template void cross_entropy_rows(const Stream&, const CrossEntropyRowsParams<float, bfloat16>&);
template void cross_entropy_rows(const Stream&, const CrossEntropyRowsParams<float, float16>&);
template void cross_entropy_rows(const Stream&, const CrossEntropyRowsParams<bfloat16>&);
template void cross_entropy_rows(const Stream&, const CrossEntropyRowsParams<float16>&);

}  // namespace coluber::cuda
