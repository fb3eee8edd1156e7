// y (m,n) = x (m,k) W^T (+ bias) with weights in bf16 and sums in f32, on processors with AMX, from weights that were
// packed beforehand (ops::pack_linear_weights): what matmul_dispatch.cc prepares for packed_linear.cc.
//
// Packed weights are (panel,step,2,16 pairs of k,16 outputs,2), zero beyond n and k: a panel is kSide outputs, a step
// kStepElems of k, and 16 lines of 16 pairs are a tile as a tile product takes its columns. Tokens are the rows, and a
// result comes out in the order of y.
//
// x is rounded to bf16, which is one part, or is not rounded: x of f32 is the sum of kExactParts bf16 numbers, each the
// next 8 of its 24 bits (below 2^-110 what is lost is less than the smallest normal number), whose products are exact.
// A part's sum goes over k in one order for any number of tokens, and y = s0 or s0 + (s1 + s2): a token's bits do not
// depend on the others, and those of rounded tokens are those of linear_tiles.h.
#pragma once

#include "kernels/cpu/linear_tiles.h"

namespace coluber::cpu {

struct PackedLinear {
  static constexpr std::int64_t kSide = TileLinear::kSide;
  static constexpr std::int64_t kStepElems = TileLinear::kStepElems;
  static constexpr std::int64_t kPanelStep = kSide * kStepElems;  // elements of a step of a panel

  static constexpr std::int64_t kExactParts = 3;

  std::int64_t m = 0, n = 0, k = 0, parts = 1;
  const bfloat16* weights = nullptr;  // packed
  const bfloat16* x = nullptr;        // (block,panel,part,step,32 tokens,32 of k), zero beyond k
  const float* bias = nullptr;        // (n), optional
  float* y = nullptr;                 // (m,n)
  std::int64_t ldy = 0;
  bool streams = false;  // y is stored past the caches: rows begin at whole vectors

  static std::int64_t elems(std::int64_t n, std::int64_t k) {
    return TileLinear::num_panels(n) * TileLinear::num_steps(k) * kPanelStep;
  }
  std::int64_t x_elems() const { return parts * elems(m, k); }
  std::int64_t token_offset(std::int64_t block, std::int64_t panel) const {
    return parts * TileLinear::token_offset(m, k, block, panel);
  }
};

// Up to kSkinnyRows tokens, whose limit is how fast weights are read.
struct FewTokens {
  std::int64_t m = 0, n = 0, k = 0, parts = 1;
  const bfloat16* weights = nullptr;  // packed
  const bfloat16* x = nullptr;        // (step,part,m,32 of k), zero beyond k
  const float* one = nullptr;         // instead of x where m is 1: the same in f32
  const float* bias = nullptr;        // (n), optional
  float* y = nullptr;                 // (m,n)
  std::int64_t ldy = 0;

  std::int64_t x_elems() const { return TileLinear::num_steps(k) * parts * m * PackedLinear::kStepElems; }
};

#ifndef COLUBER_ONLY_BASE_ISA
namespace avx512 {  // only where has_amx_bf16()
// A panel: outputs from `output` on of W (n,k), rows ldw apart.
void pack_weight_panel(const bfloat16* w, std::int64_t ldw, std::int64_t n, std::int64_t k, std::int64_t output,
                       bfloat16* to);
// One block of k of a panel: up to kSide tokens from x on, rounded to bf16 or in its parts.
void round_tokens(const float* x, std::int64_t ldx, std::int64_t tokens, std::int64_t k, std::int64_t block,
                  bfloat16* to);
void split_tokens(const float* x, std::int64_t ldx, std::int64_t tokens, std::int64_t k, std::int64_t block,
                  bfloat16* to);
// The token of p, or all of them, (m,k) from x on.
void lay_out_one_token(const FewTokens& p, const float* x, float* to);
void lay_out_few_tokens(const FewTokens& p, const float* x, std::int64_t ldx, bfloat16* to);
// `sums`: num_panels(outputs) num_panels(tokens) parts kSide^2 floats.
void packed_linear(const PackedLinear& p, const TileLinearTask& task, float* sums);
// Panels [begin, end) of outputs.
void packed_few(const FewTokens& p, std::int64_t begin, std::int64_t end);
}  // namespace avx512
#endif

}  // namespace coluber::cpu
