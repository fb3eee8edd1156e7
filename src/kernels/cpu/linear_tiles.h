// y (m,n) = x (m,k) W^T (+ bias) with both factors in bf16 and sums in f32, on processors with AMX: what
// matmul_dispatch.cc prepares for linear_tiles.cc and how it cuts the work.
//
// Sums go over k in one order, whatever m, n and the cut are: a token's result does not depend on the others.
#pragma once

#include <cstdint>

#include "coluber/dtype.h"

namespace coluber::cpu {

struct TileLinear {
  static constexpr std::int64_t kStepElems = 32;  // of k: what one tile product multiplies
  static constexpr std::int64_t kBlockSteps = 8;  // whose weights stay in L1
  static constexpr std::int64_t kSide = 32;       // outputs, and tokens of a panel, of one block of c
  static constexpr std::int64_t kBlockFloats = kSide * kStepElems / 2 * kBlockSteps;  // copied weights

  static std::int64_t num_steps(std::int64_t k) { return (k + kStepElems - 1) / kStepElems; }
  static std::int64_t num_panels(std::int64_t m) { return (m + kSide - 1) / kSide; }
  static std::int64_t num_blocks(std::int64_t k) { return (num_steps(k) + kBlockSteps - 1) / kBlockSteps; }

  std::int64_t m = 0, n = 0, k = 0;
  const bfloat16* weights = nullptr;  // (n,k)
  std::int64_t ldw = 0;
  const bfloat16* tokens = nullptr;  // (block,panel,step,2,16 pairs of k,16 tokens,2), zero beyond m and k
  const float* bias = nullptr;       // (n), optional
  float* y = nullptr;                // (m,n)
  std::int64_t ldy = 0;

  // Of packed tokens (m,k): where a block of k of a panel begins.
  static std::int64_t token_offset(std::int64_t m, std::int64_t k, std::int64_t block, std::int64_t panel) {
    const std::int64_t first = block * kBlockSteps, left = num_steps(k) - first;
    return (first * num_panels(m) + panel * (left < kBlockSteps ? left : kBlockSteps)) * kSide * kStepElems;
  }
  std::int64_t token_offset(std::int64_t block, std::int64_t panel) const { return token_offset(m, k, block, panel); }
};

// Outputs and tokens of one call; `output` and `token` are multiples of kSide.
struct TileLinearTask {
  std::int64_t output = 0, outputs = 0, token = 0, tokens = 0;

  static std::int64_t scratch_floats(std::int64_t outputs, std::int64_t tokens) {
    return 2 * TileLinear::kBlockFloats +
           TileLinear::num_panels(outputs) * TileLinear::num_panels(tokens) * TileLinear::kSide * TileLinear::kSide;
  }
};

#ifndef COLUBER_ONLY_BASE_ISA
namespace avx512 {  // only where has_amx_bf16()
// One block of k of a panel: up to kSide tokens from x on.
void pack_tile_tokens(const float* x, std::int64_t ldx, std::int64_t tokens, std::int64_t k, std::int64_t block,
                      bfloat16* to);
void linear_tiles(const TileLinear& p, const TileLinearTask& task, float* scratch);
}  // namespace avx512
#endif

}  // namespace coluber::cpu
