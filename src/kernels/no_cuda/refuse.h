// Kernels of a build without CUDA: they link, and refuse in the words of core/no_cuda/cuda.cc.
#pragma once

#include "core/cuda.h"

namespace coluber::cuda {

// Throws kUnsupported: here no device is there.
inline void refuse_kernel(const Stream& stream) {
  require_device(stream.device);
}

}  // namespace coluber::cuda
