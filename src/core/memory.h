// Where tensors get their bytes: a process-wide cache in front of the heap.
//
// A training step asks for the same sizes in the same order every time. Blocks of kMinCachedBytes and more that are
// given back are kept and handed out again, so a steady state allocates nothing, faults no new page and sees the same
// addresses. The cache is bounded: live + cached never exceeds the peak of live by more than a quarter (+ 32 MiB).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace coluber {

inline constexpr std::size_t kAlignment = 64;  // one cache line, one AVX-512 register

// 64-byte aligned, uninitialised. Throws kOutOfMemory naming the size asked for.
std::shared_ptr<void> allocate_cpu(std::int64_t size_bytes);

}  // namespace coluber
