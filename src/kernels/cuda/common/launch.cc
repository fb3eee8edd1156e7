#include "kernels/cuda/common/launch.h"

#include <array>

namespace coluber::cuda {

namespace {

// Asked once; written with equal values by whoever comes first.
int attribute(cudaDeviceAttr which, int device, std::array<int, kMaxDevices>& known) {
  int& value = known.at(static_cast<std::size_t>(device));
  if (value == 0) check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

}  // namespace

int multiprocessors(int device) {
  static std::array<int, kMaxDevices> known{};
  return attribute(cudaDevAttrMultiProcessorCount, device, known);
}

bool starts_early(int device) {
  static std::array<int, kMaxDevices> known{};
  return attribute(cudaDevAttrComputeCapabilityMajor, device, known) >= 9;
}

std::int64_t most_shared_bytes(int device) {
  static std::array<int, kMaxDevices> known{};
  return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device, known);
}

}  // namespace coluber::cuda
