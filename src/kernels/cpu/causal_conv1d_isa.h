// What causal_conv1d_dispatch.cc prepares for the loops of causal_conv1d.cc.
//
// Tokens are handled row by row, a block of channels at a time: the rows of a window stay in L1 for the next token, and
// memory is read in runs.
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
  const float* weights = nullptr;         // packed (conv_pack_weights), the block of channel c at c (k+1)
  const float* zeros = nullptr;           // (d): what a reset leaves
  const float* state_in = nullptr;        // (s,k-1,d), null: zeros
  const float* grad_state_out = nullptr;  // (s,k-1,d), null: zeros
  bool streams = false;                   // y and grad_x are stored past the caches
};

struct ConvChannels {
  std::int64_t first = 0, count = 0;
};

// Widths up to this have loops of their own.
inline constexpr int kConvMaxUnrolled = 8;
// Scratch of one thread for a block of up to `channels` channels.
struct ConvScratch {
  const float** taps = nullptr;  // (k) rows of a window
  float* floats = nullptr;

  // For backward: k + 1 sums and k gradients of every channel, and a row of a state.
  static std::int64_t elems(std::int64_t k, std::int64_t channels) { return (2 * k + 2) * channels; }
};

// Lanes of the widest set: blocks begin at multiples of it, and packed numbers are padded to it.
inline constexpr std::int64_t kConvMaxLanes = 16;

// k weights and the bias of every channel of a block, in the order in which the kernels read them.
COLUBER_DECLARE_PER_ISA(void, conv_pack_weights,
                        (const CausalConv1dParams<float>& p, const ConvChannels& channels, float* packed))
COLUBER_DECLARE_PER_ISA(void, conv_unpack_grads,
                        (const CausalConv1dGradParams<float>& g, std::int64_t k, const ConvChannels& channels,
                         const float* packed))
COLUBER_DECLARE_PER_ISA(void, conv_forward_piece,
                        (const ConvCall& call, const ConvPiece& piece, const ConvChannels& channels,
                         const ConvScratch& scratch))
// Adds gradients of weights and bias to `sums`, packed like the weights.
COLUBER_DECLARE_PER_ISA(void, conv_backward_pieces,
                        (const ConvCall& call, const CausalConv1dGradParams<float>& g, const ConvPiece* pieces,
                         std::int64_t num_pieces, const ConvChannels& channels, const ConvScratch& scratch,
                         double* sums))
// One token per sequence; state_in and state_out as in the parameters, not transposed. k <= kConvMaxUnrolled.
COLUBER_DECLARE_PER_ISA(void, conv_step, (const CausalConv1dParams<float>& p, const ConvChannels& channels))

}  // namespace coluber::cpu
