#include "kernels/cuda/common/launch.h"

#include <array>
#include <atomic>
#include <mutex>
#include <set>
#include <utility>

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

void allow_most_shared_bytes(const void* kernel) {
  static std::mutex mutex;
  static std::set<std::pair<const void*, int>> allowed;
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  const std::lock_guard<std::mutex> lock(mutex);
  if (allowed.count({kernel, device}) != 0) return;
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, kernel), "cudaFuncGetAttributes");
  const std::int64_t bytes = most_shared_bytes(device) - static_cast<std::int64_t>(attributes.sharedSizeBytes);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "cudaFuncSetAttribute");
  allowed.insert({kernel, device});
}

}  // namespace coluber::cuda
