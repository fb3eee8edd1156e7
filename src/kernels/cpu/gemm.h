// One matrix product on the calling thread, by the best library that this build has.
//
//   c (m,n) = op(a) (m,k) op(b) (k,n), or c += with accumulate; op transposes when its flag is set.
//
// Rows are contiguous, `ld*` elements apart. The library never uses threads of its own here: the caller cuts a product
// into tiles by its shape alone and runs them on our pool, so the bits do not depend on the number of threads.
// Called by cpu/matmul_dispatch.cc and machine.cc.
#pragma once

#include <cstdint>
#include <string_view>

#include "coluber/dtype.h"

namespace coluber::cpu {

template <class T>
struct Gemm {
  std::int64_t m = 0, n = 0, k = 0;
  const T* a = nullptr;  // (m,k), or (k,m) when transpose_a
  std::int64_t lda = 0;
  bool transpose_a = false;
  const T* b = nullptr;  // (k,n), or (n,k) when transpose_b
  std::int64_t ldb = 0;
  bool transpose_b = false;
  bool accumulate = false;
  float* c = nullptr;  // (m,n)
  std::int64_t ldc = 0;
};

void gemm(const Gemm<float>& product);

// Products of bf16 are exact in f32 and summed in f32. Only where gemm_has_bf16(), that is on a machine with bf16
// dot products; elsewhere callers round to bf16, widen to f32 and get the same products.
void gemm(const Gemm<bfloat16>& product);
bool gemm_has_bf16();

std::string_view gemm_library();  // "onednn", "openblas" or "own"
// Of bf16: "own" on machines with tiles, where it is faster than oneDNN 2.6 (docs/performance.md).
std::string_view gemm_bf16_library();

}  // namespace coluber::cpu
