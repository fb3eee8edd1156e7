// One matrix product on the calling thread, by the best library that this build has.
//
//   c (m,n) = op(a) (m,k) op(b) (k,n), or c += with accumulate; op transposes when its flag is set.
//
// Rows are contiguous, `ld*` elements apart. The library never starts threads of its own here: the caller cuts a
// product into tiles by its shape alone and runs them on our pool, so the bits do not depend on the number of threads.
// Called by cpu/matmul_dispatch.cc.
#pragma once

#include <cstdint>
#include <string_view>

namespace coluber::cpu {

struct GemmF32 {
  std::int64_t m = 0, n = 0, k = 0;
  const float* a = nullptr;  // (m,k), or (k,m) when transpose_a
  std::int64_t lda = 0;
  bool transpose_a = false;
  const float* b = nullptr;  // (k,n), or (n,k) when transpose_b
  std::int64_t ldb = 0;
  bool transpose_b = false;
  bool accumulate = false;
  float* c = nullptr;  // (m,n)
  std::int64_t ldc = 0;
};
void gemm_f32(const GemmF32& product);

std::string_view gemm_library();  // "onednn", "openblas" or "own"

}  // namespace coluber::cpu
