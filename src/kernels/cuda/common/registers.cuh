// Registers that move between the warps of a block (setmaxnreg, compute capability 9.0a): a kernel starts with an equal
// share for each warp, and warps that need few leave them to those that need many. Four neighbouring warps, from a
// multiple of four on, ask together. kMovesRegisters: whether this pass of the compiler knows it; the host asks the
// kernel that was loaded.
#pragma once

namespace coluber::cuda {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
inline constexpr bool kMovesRegisters = true;
#else
inline constexpr bool kMovesRegisters = false;
#endif

// Waits until there are as many.
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}
template <int kRegisters>
__device__ __forceinline__ void leave_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}

}  // namespace coluber::cuda
