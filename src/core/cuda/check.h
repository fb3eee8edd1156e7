// Results of calls of the CUDA runtime.
#pragma once

#include <cuda_runtime.h>

#include <string_view>

#include "core/cuda.h"

namespace coluber::cuda {

// Throws kDevice, naming what was tried and what the runtime said.
void check(cudaError_t result, std::string_view what);
// After a launch: that it was accepted. What happens inside shows at the next synchronisation.
inline void check_launch(std::string_view kernel) {
  check(cudaPeekAtLastError(), kernel);
}

inline cudaStream_t handle_of(const Stream& stream) {
  return static_cast<cudaStream_t>(stream.handle);
}

// Makes a device the current one of the CUDA runtime while it lives.
class DeviceScope {
 public:
  explicit DeviceScope(int device) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ != device) check(cudaSetDevice(device), "cudaSetDevice");
    changed_ = before_ != device;
  }
  ~DeviceScope() {
    if (changed_) cudaSetDevice(before_);
  }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

}  // namespace coluber::cuda
