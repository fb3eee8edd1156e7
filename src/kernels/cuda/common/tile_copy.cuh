// Tiles of matrices (tensor_map.h) on their way to shared memory, and what blocks of a cluster ask of each other
// (compute capability 9.0). A tile is asked for by one thread and takes no registers; who waits at its Meeting sees it.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/cuda/common/async_copy.cuh"
#include "kernels/cuda/common/meeting.cuh"

namespace coluber::cuda {

// Arrives, and lets the phase end when so many bytes have come too.
__device__ __forceinline__ void arrive_expecting(Meeting& meeting, unsigned bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("{ .reg .b64 t; mbarrier.arrive.expect_tx.shared::cta.b64 t, [%0], %1; }" ::"r"(meeting.address()),
               "r"(bytes)
               : "memory");
#endif
}

// The tile whose first number is (row, column), to a multiple of 1024 bytes in shared memory.
__device__ __forceinline__ void copy_tile(unsigned to, const CUtensorMap& map, int row, int column, Meeting& meeting) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::
          "r"(to),
      "l"(&map), "r"(column), "r"(row), "r"(meeting.address())
      : "memory");
#endif
}

__device__ __forceinline__ void ask_for_map(const CUtensorMap& map) {
#if __CUDA_ARCH__ >= 900
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
#endif
}

// Initialised meetings are seen by the engine that copies.
__device__ __forceinline__ void show_meetings() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

// All threads of a cluster: what they wrote to shared memory is seen by all.
__device__ __forceinline__ void meet_cluster() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// Four numbers at the same address in the shared memory of another block of the cluster.
__device__ __forceinline__ float4 load_from_block(unsigned from, unsigned rank) {
  float4 v{};
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{ .reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %4, %5;\n"
      "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [there]; }"
      : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
      : "r"(from), "r"(rank)
      : "memory");
#endif
  return v;
}

__device__ __forceinline__ float4 load_shared_floats(unsigned from) {
  float4 v;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(from)
               : "memory");
  return v;
}
__device__ __forceinline__ void store_shared_floats(unsigned to, const float4& v) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
}
__device__ __forceinline__ void store_shared_number(unsigned to, float v) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(to), "f"(v) : "memory");
}

// Four 8 x 8 matrices of 16-bit numbers; lane 8 i + r names row r of matrix i.
__device__ __forceinline__ void load_matrices(std::uint32_t (&m)[4], unsigned from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(from)
               : "memory");
}

}  // namespace coluber::cuda
