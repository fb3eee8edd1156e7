// Where warps of a block that do different work meet.
#pragma once

#include <cstdint>

namespace coluber::cuda {

// An mbarrier: who waits sees what was written before the arrivals. Its use number i completes phase i. Unlike a
// barrier of the block, it lets a warp that has arrived go on: helpers and scan warps may be a tile apart.
struct Meeting {
  std::uint64_t state;

  __device__ __forceinline__ std::uint32_t address() const {
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(&state));
  }
  __device__ __forceinline__ void init(int arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(address()), "r"(arrivals) : "memory");
  }
  __device__ __forceinline__ void arrive() {
    asm volatile("{ .reg .b64 t; mbarrier.arrive.shared.b64 t, [%0]; }" ::"r"(address()) : "memory");
  }
  __device__ __forceinline__ void wait(int use) const {
#if __CUDA_ARCH__ >= 900  // sleeps a while before it asks again
#define COLUBER_MBARRIER_WAIT "mbarrier.try_wait.parity"
#else
#define COLUBER_MBARRIER_WAIT "mbarrier.test_wait.parity"
#endif
    asm volatile(
        "{ .reg .pred p;\n"
        "again_%=: " COLUBER_MBARRIER_WAIT
        ".shared.b64 p, [%0], %1;\n"
        "@!p bra again_%=; }" ::"r"(address()),
        "r"(use & 1)
        : "memory");
#undef COLUBER_MBARRIER_WAIT
  }
};

}  // namespace coluber::cuda
