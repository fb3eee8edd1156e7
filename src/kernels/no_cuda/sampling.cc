#include "kernels/sampling.h"

#include "kernels/no_cuda/refuse.h"

namespace coluber::cuda {

void sample_rows(const Stream& stream, const SampleRowsParams&) {
  refuse_kernel(stream);
}

}  // namespace coluber::cuda
