// The meaning of embedding: one token after the other.
#pragma once

#include "kernels/embedding.h"

namespace coluber::reference {

// f(pointer to a row of the table), in the type that the table has.
template <class F>
void with_table_row(const EmbeddingTable& table, std::int64_t row, F&& f) {
  const std::int64_t at = row * table.ld;
  switch (table.dtype) {
    case DType::kF64: return f(static_cast<const double*>(table.data) + at);
    case DType::kBF16: return f(static_cast<const bfloat16*>(table.data) + at);
    case DType::kF16: return f(static_cast<const float16*>(table.data) + at);
    default: return f(static_cast<const float*>(table.data) + at);
  }
}

template <class T, class From>
T widened(From x) {
  if constexpr (sizeof(From) == 2)
    return static_cast<T>(static_cast<float>(x));
  else
    return static_cast<T>(x);
}

template <class T>
void embedding_forward(const EmbeddingParams<T>& p) {
  for (std::int64_t i = 0; i < p.tok; ++i) {
    with_table_row(p.table, p.ids[i], [&](const auto* row) {
      for (std::int64_t c = 0; c < p.m; ++c) p.y[i * p.m + c] = widened<T>(row[c]);
    });
  }
}

template <class T>
void embedding_backward(const EmbeddingGradParams<T>& p) {
  for (std::int64_t i = 0; i < p.tok; ++i)
    for (std::int64_t c = 0; c < p.m; ++c) p.grad_table(p.ids[i], c) += p.grad_y(i, c);
}

}  // namespace coluber::reference
