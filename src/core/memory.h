// Where tensors get their bytes: a process-wide cache in front of the heap (core/block_cache.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "coluber/device.h"
#include "coluber/dtype.h"

namespace coluber {

inline constexpr std::size_t kAlignment = 64;  // one cache line, one AVX-512 register

// 64-byte aligned, uninitialised. Throws kOutOfMemory naming the size asked for.
std::shared_ptr<void> allocate_cpu(std::int64_t size_bytes);

// The same on any device, for elements of `dtype`; on a GPU in the order of the thread's current stream (core/cuda.h).
std::shared_ptr<void> allocate(std::int64_t size_bytes, Device device, DType dtype);

}  // namespace coluber
