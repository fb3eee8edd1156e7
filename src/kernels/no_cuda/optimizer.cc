#include "kernels/optimizer.h"

#include "kernels/no_cuda/refuse.h"

namespace coluber::cuda {

void adamw_step(const Stream& stream, const AdamWParams<float>*, std::int64_t) {
  refuse_kernel(stream);
}

}  // namespace coluber::cuda
