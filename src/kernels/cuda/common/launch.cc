#include "kernels/cuda/common/launch.h"

#include <array>
#include <atomic>

namespace coluber::cuda {

namespace {

using Known = std::array<std::atomic<int>, kMaxDevices>;

// Asked once; written with equal values by whoever comes first.
int attribute(cudaDeviceAttr which, int device, Known& known) {
  std::atomic<int>& slot = known.at(static_cast<std::size_t>(device));
  int value = slot.load(std::memory_order_relaxed);
  if (value == 0) {
    check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
    slot.store(value, std::memory_order_relaxed);
  }
  return value;
}

}  // namespace

int multiprocessors(int device) {
  static Known known{};
  return attribute(cudaDevAttrMultiProcessorCount, device, known);
}

bool starts_early(int device) {
  static Known known{};
  return attribute(cudaDevAttrComputeCapabilityMajor, device, known) >= 9;
}

std::int64_t most_shared_bytes(int device) {
  static Known known{};
  return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device, known);
}

}  // namespace coluber::cuda
