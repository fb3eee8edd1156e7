// y (m,n) = x (m,k) W^T (+ bias) in bf16 with sums in f32, on processors with AMX, from weights that were packed
// beforehand (ops::pack_linear_weight): what matmul_dispatch.cc prepares for packed_linear.cc.
//
// Packed weights are (panel,step,2,16 pairs of k,16 outputs,2), zero beyond n and k: a panel is kSide outputs, a step
// kStepElems of k, and 16 lines of 16 pairs are a tile as a tile product takes its columns. Tokens are the rows, and a
// result comes out in the order of y. Sums are those of linear_tiles.h, to the bit.
#pragma once

#include "kernels/cpu/linear_tiles.h"

namespace coluber::cpu {

struct PackedLinear {
  static constexpr std::int64_t kSide = TileLinear::kSide;
  static constexpr std::int64_t kStepElems = TileLinear::kStepElems;
  static constexpr std::int64_t kPanelStep = kSide * kStepElems;  // elements of a step of a panel

  std::int64_t m = 0, n = 0, k = 0;
  const bfloat16* weights = nullptr;  // packed
  const bfloat16* x = nullptr;        // (block,panel,step,32 tokens,32 of k), zero beyond k
  const float* bias = nullptr;        // (n), optional
  float* y = nullptr;                 // (m,n)
  std::int64_t ldy = 0;
  bool streams = false;  // y is stored past the caches: rows begin at whole vectors

  static std::int64_t elems(std::int64_t n, std::int64_t k) {
    return TileLinear::num_panels(n) * TileLinear::num_steps(k) * kPanelStep;
  }
  std::int64_t token_offset(std::int64_t block, std::int64_t panel) const {
    return TileLinear::token_offset(m, k, block, panel);
  }
};

#ifndef COLUBER_ONLY_BASE_ISA
namespace avx512 {  // only where has_amx_bf16()
// A panel: outputs from `output` on of W (n,k), rows ldw apart.
void pack_weight_panel(const bfloat16* w, std::int64_t ldw, std::int64_t n, std::int64_t k, std::int64_t output,
                       bfloat16* to);
// One block of k of a panel: up to kSide tokens from x on, rounded to bf16.
void round_tokens(const float* x, std::int64_t ldx, std::int64_t tokens, std::int64_t k, std::int64_t block,
                  bfloat16* to);
// `sums`: num_panels(outputs) num_panels(tokens) kSide^2 floats.
void packed_linear(const PackedLinear& p, const TileLinearTask& task, float* sums);
}  // namespace avx512
#endif

}  // namespace coluber::cpu
