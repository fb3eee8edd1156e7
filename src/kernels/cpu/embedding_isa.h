// The inner loops of embedding.cc, per instruction set.
#pragma once

#include <cstdint>

#include "kernels/cpu/isa.h"
#include "kernels/embedding.h"

namespace coluber::cpu {

COLUBER_DECLARE_PER_ISA(void, embedding_forward_tokens,
                        (const EmbeddingParams<float>& p, std::int64_t begin, std::int64_t end))
// Adds columns [column, column + columns) of the tokens order[begin .. end), one after the other.
COLUBER_DECLARE_PER_ISA(void, embedding_backward_tokens,
                        (const EmbeddingGradParams<float>& p, const std::int64_t* order, std::int64_t begin,
                         std::int64_t end, std::int64_t column, std::int64_t columns))

}  // namespace coluber::cpu
