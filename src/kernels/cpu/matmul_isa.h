// What cpu/matmul.cc and cpu/gemm_own.cc compile once per instruction set. All run on the calling thread.
#pragma once

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa.h"
#include "kernels/matmul.h"

namespace coluber::cpu {

// Outputs [begin, end) of a product of at most kSkinnyRows tokens, whose x is rounded already when p.bf16, and whose
// rows are laid out by split_pairs when weights are bf16. Every output is one sum over k, kLanes partial sums wide,
// whatever the number of tokens: batch invariant.
COLUBER_DECLARE_PER_ISA(void, skinny_forward, (const LinearForwardParams& p, std::int64_t begin, std::int64_t end))
// A row of x, its elements in the order in which pairs of bf16 weights are taken apart.
COLUBER_DECLARE_PER_ISA(void, split_pairs, (const float* x, std::int64_t n, float* to))

// n weights as f32, rounded to bf16 on the way when asked.
COLUBER_DECLARE_PER_ISA(void, widen, (const void* from, DType dtype, bool round_bf16, float* to, std::int64_t n))
// n weights of f32 or f16 as bf16.
COLUBER_DECLARE_PER_ISA(void, narrow, (const void* from, DType dtype, bfloat16* to, std::int64_t n))

// Columns [begin, end) of grad_bias.
COLUBER_DECLARE_PER_ISA(void, column_sums, (const LinearGradBiasParams& p, std::int64_t begin, std::int64_t end))

// to += from
COLUBER_DECLARE_PER_ISA(void, add_row, (float* to, const float* from, std::int64_t n))

// Reads n words (a multiple of 16) as fast as this machine can; for machine.cc.
COLUBER_DECLARE_PER_ISA(std::uint32_t, sum_of_words, (const std::uint32_t* words, std::int64_t n))
std::uint32_t sum_of_words(const std::uint32_t* words, std::int64_t n);

// The product of gemm.h without any library. `workspace` holds kGemmOwnWorkspace floats, 64-byte aligned.
inline constexpr std::int64_t kGemmOwnWorkspace = 512 << 10;
COLUBER_DECLARE_PER_ISA(void, gemm_own, (const Gemm<float>& product, float* workspace))
#ifndef COLUBER_ONLY_BASE_ISA
namespace avx512 {
void gemm_own_bf16_dot(const Gemm<bfloat16>& product, float* workspace);    // only where has_avx512_bf16()
void gemm_own_bf16_tiles(const Gemm<bfloat16>& product, float* workspace);  // only where has_amx_bf16()
}  // namespace avx512
#endif

}  // namespace coluber::cpu
