// The inner loops of embedding.cc, per instruction set.
#pragma once

#include <cstdint>

#include "kernels/cpu/isa.h"
#include "kernels/embedding.h"

namespace coluber::cpu {

COLUBER_DECLARE_PER_ISA(void, embedding_forward_tokens,
                        (const EmbeddingParams<float>& p, std::int64_t begin, std::int64_t end))
// to[i] += x[i] of the tokens order[0 .. count) one after the other; x and to begin at the same column.
COLUBER_DECLARE_PER_ISA(void, embedding_add_tokens,
                        (float* to, const float* x, std::int64_t ldx, const std::int64_t* order, std::int64_t count,
                         std::int64_t columns))

}  // namespace coluber::cpu
