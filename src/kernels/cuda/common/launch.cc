#include "kernels/cuda/common/launch.h"

#include <array>

namespace coluber::cuda {

int multiprocessors(int device) {
  static std::array<int, 64> counts{};  // written with equal values by whoever comes first
  int& count = counts.at(static_cast<std::size_t>(device));
  if (count == 0)
    check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  return count;
}

}  // namespace coluber::cuda
