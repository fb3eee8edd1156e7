// Programmatic dependent launch (compute capability 9.0): a kernel starts while the one before it in the stream still
// runs, and waits at wait_for_inputs(). Everything that it reads which the kernel before writes comes after that;
// weights may come before. On older devices the two calls do nothing and kernels follow each other as always.
#pragma once

#include <cuda_runtime.h>

#include "core/cuda/check.h"
#include "kernels/cuda/common/launch.h"

namespace coluber::cuda {

__device__ __forceinline__ void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The next kernel's blocks may take the places that are free.
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// More than 48 KiB of shared memory must be asked for; up to a quarter of that may be static.
template <class... Parameters>
void allow_shared_bytes(void (*kernel)(Parameters...), std::size_t bytes) {
  if (bytes <= (36 << 10)) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "cudaFuncSetAttribute");
}

template <class... Parameters, class... Arguments>
void launch_dependent(void (*kernel)(Parameters...), dim3 grid, unsigned threads, std::size_t shared_bytes,
                      const Stream& stream, Arguments... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = handle_of(stream);
  config.attrs = &attribute;
  config.numAttrs = starts_early(stream.device) ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), "cudaLaunchKernelEx");
}

}  // namespace coluber::cuda
