// Copies from global to shared memory that go on while a thread computes (cp.async). A thread sees what it copied
// itself after wait_copies(), others after a barrier that follows.
#pragma once

#include <cstdint>

namespace coluber::cuda {

__device__ __forceinline__ unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

// 16 bytes to a shared_address, zeros where there are none, and then `from` is not read.
__device__ __forceinline__ void copy_16_bytes(unsigned to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
}
// 4, 8 or 16 bytes, as aligned as they are many; zeros where there are none, and then `from` is not read.
template <int kBytes>
__device__ __forceinline__ void copy_async(unsigned to, const void* from, bool there) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  if constexpr (kBytes == 16)
    copy_16_bytes(to, from, there);
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(kBytes),
                 "r"(there ? kBytes : 0)
                 : "memory");
}
template <int kBytes>
__device__ __forceinline__ void copy_async(void* to, const void* from, bool there) {
  copy_async<kBytes>(shared_address(to), from, there);
}
// Ends a group of copies, which may be empty.
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits for all groups of this thread but the last kPending.
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace coluber::cuda
