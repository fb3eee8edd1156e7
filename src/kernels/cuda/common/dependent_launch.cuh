// Programmatic dependent launch (compute capability 9.0): a kernel starts while the one before it in the stream still
// runs, and waits at wait_for_inputs(). Everything that it reads which the kernel before writes comes after that;
// weights may come before, and so may a state that the kernel before last wrote, as long as the kernel before lets this
// one start after its own wait only, or is launched without `early`. On older devices the two calls do nothing and
// kernels follow each other as always.
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

// Before a launch with so many bytes of dynamic shared memory: more than 48 KiB, with the static ones, must be allowed.
template <class... Parameters>
void allow_shared_bytes(void (*kernel)(Parameters...), std::size_t bytes) {
  constexpr std::size_t kFree = 36 << 10;  // no kernel has more than 12 KiB of static ones
  if (bytes > kFree) allow_most_shared_bytes(reinterpret_cast<const void*>(kernel));
}

// Threads of a block that the code of a kernel that this device runs was compiled for, at most.
template <class... Parameters>
int most_threads(void (*kernel)(Parameters...)) {
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, kernel), "cudaFuncGetAttributes");
  return attributes.maxThreadsPerBlock;
}

struct LaunchShape {
  dim3 grid;
  unsigned threads = 0;
  std::size_t shared_bytes = 0;
  unsigned cluster = 1;  // so many neighbouring blocks along x see each other's shared memory
  bool early = true;  // false: waits for the end of the kernel in front, which may have written what this reads early
};

template <class... Parameters, class... Arguments>
void launch_dependent(void (*kernel)(Parameters...), const LaunchShape& shape, const Stream& stream,
                      Arguments... arguments) {
  cudaLaunchAttribute attributes[2]{};
  unsigned count = 0;
  if (shape.early && starts_early(stream.device)) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = shape.cluster;
    attributes[count].val.clusterDim.y = 1;
    attributes[count++].val.clusterDim.z = 1;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = handle_of(stream);
  config.attrs = attributes;
  config.numAttrs = count;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), "cudaLaunchKernelEx");
}

}  // namespace coluber::cuda
