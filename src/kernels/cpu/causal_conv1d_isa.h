// What causal_conv1d_dispatch.cc prepares for the loops of causal_conv1d.cc.
//
// Tokens are handled row by row, a block of channels at a time: the k rows of a window and the k rows of weights stay
// in L1, and memory is read in runs that the hardware prefetches.
#pragma once

#include <cstdint>

#include "kernels/causal_conv1d.h"
#include "kernels/cpu/isa.h"

namespace coluber::cpu {

// Steps [first, first + count) of a sequence, in processing order. The first piece of a sequence has first = 0, and may
// be empty.
struct ConvPiece {
  std::int64_t slot = 0, first = 0, count = 0;
};

struct ConvCall {
  const CausalConv1dParams<float>* p = nullptr;
  const float* weight = nullptr;          // (k,d)
  const float* zeros = nullptr;           // (d): what a reset leaves
  const float* state_in = nullptr;        // (s,k-1,d), null: zeros
  const float* grad_state_out = nullptr;  // (s,k-1,d), null: zeros
};

struct ConvChannels {
  std::int64_t first = 0, count = 0;
};

// Widths up to this have loops of their own.
inline constexpr int kConvMaxUnrolled = 8;
// Scratch of one thread. Forward: k pointers to rows. Backward: those, and floats for 2 k + 2 rows of a block.
struct ConvScratch {
  const float** taps = nullptr;  // (k)
  float* rows = nullptr;
};

COLUBER_DECLARE_PER_ISA(void, conv_forward_piece,
                        (const ConvCall& call, const ConvPiece& piece, const ConvChannels& channels,
                         const ConvScratch& scratch))
// Adds weight gradients to sums (k+1,d), whose last row is that of the bias.
COLUBER_DECLARE_PER_ISA(void, conv_backward_pieces,
                        (const ConvCall& call, const CausalConv1dGradParams<float>& g, const ConvPiece* pieces,
                         std::int64_t num_pieces, const ConvChannels& channels, const ConvScratch& scratch,
                         double* sums))
// One token per sequence; state_in and state_out as in the parameters, not transposed. k <= kConvMaxUnrolled.
COLUBER_DECLARE_PER_ISA(void, conv_step, (const CausalConv1dParams<float>& p, const ConvChannels& channels))

}  // namespace coluber::cpu
