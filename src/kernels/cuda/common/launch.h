// What every kernel file needs on the host: scratch memory, sizes of grids, properties of the device.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/cuda.h"
#include "core/cuda/check.h"
#include "core/memory.h"

namespace coluber::cuda {

// Device memory of one call. It goes back to the stream's cache at the end of the scope, while the work may still be
// under way: the next owner is work of the same stream, so it comes after.
class Scratch {
 public:
  explicit Scratch(const Stream& stream) : device_(stream.device) {}

  template <class T>
  T* allocate(std::int64_t count) {
    blocks_.push_back(cuda::allocate(std::max<std::int64_t>(count * static_cast<std::int64_t>(sizeof(T)), 1), device_));
    return static_cast<T*>(blocks_.back().get());
  }

 private:
  int device_;
  std::vector<std::shared_ptr<void>> blocks_;
};

inline std::int64_t divide_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

// Multiprocessors of a device, asked once.
int multiprocessors(int device);
// Whether it knows programmatic dependent launch: compute capability 9.0.
bool starts_early(int device);
// That a block may ask for.
std::int64_t most_shared_bytes(int device);
// Allows launches of a kernel on the current device with as much dynamic shared memory as there is beside its static
// one; asked once. Not with what one call needs: a call of another thread with less could come before its launch.
void allow_most_shared_bytes(const void* kernel);

inline bool is_aligned(const void* p, std::int64_t bytes) {
  return reinterpret_cast<std::uintptr_t>(p) % static_cast<std::uintptr_t>(bytes) == 0;
}

}  // namespace coluber::cuda
