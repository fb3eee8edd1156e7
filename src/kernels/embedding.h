// embedding: y_i = table[ids_i]; backward adds grad_y_i to row ids_i of grad_table, in the order of the tokens.
//
// Called by ops/embedding.cc, which checks shapes and ids. Extents: tok tokens, v rows, m columns.
#pragma once

#include <cstdint>

#include "coluber/dtype.h"
#include "core/cuda.h"
#include "kernels/view.h"

namespace coluber {

class Arena;
class ThreadPool;

struct EmbeddingTable {
  const void* data = nullptr;  // (v,m), rows contiguous
  DType dtype = DType::kF32;   // any float
  std::int64_t ld = 0;         // elements from row to row
};

template <class T>
struct EmbeddingParams {
  std::int64_t tok = 0, m = 0;
  const std::int32_t* ids = nullptr;  // (tok), in [0, v)
  EmbeddingTable table;
  T* y = nullptr;  // (tok,m)
};

template <class T, class P = T>
struct EmbeddingGradParams {
  std::int64_t tok = 0, v = 0, m = 0;
  const std::int32_t* ids = nullptr;  // (tok), in [0, v)
  View<const T, 2> grad_y;            // (tok,m), rows contiguous
  View<P, 2> grad_table;              // (v,m), rows contiguous; added to
};

namespace cpu {

void embedding_forward(ThreadPool& threads, const EmbeddingParams<float>& p);
void embedding_backward(ThreadPool& threads, Arena& scratch, const EmbeddingGradParams<float>& p);

}  // namespace cpu

namespace cuda {

// T: float, bfloat16 or float16. The rows of ids outside of [0, v) are NaN.
template <class T>
void embedding_forward(const Stream& stream, const EmbeddingParams<T>& p, std::int64_t v);
// grad_y of T, grad_table f32.
template <class T>
void embedding_backward(const Stream& stream, const EmbeddingGradParams<T, float>& p);

}  // namespace cuda
}  // namespace coluber
