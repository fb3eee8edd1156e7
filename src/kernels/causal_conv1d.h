// causal_conv1d: a depthwise convolution that looks back only (arXiv 2312.00752, section 3.4; docs/math.md).
//
//   y_t = act(bias + sum_j weight[:,j] e_{t-k+1+j}),  j = 0 .. k-1, act = silu or nothing
//
// e is the sequence in processing order (from its last token when `reverse`), preceded by the k-1 inputs of state_in,
// or zeros. A reset before token r makes every e before r read as zero from then on, in state_out too. backward
// recomputes the pre-activation, so nothing is saved.
// Called by ops/causal_conv1d.cc, which checks shapes. Extents: b rows, l tokens, d channels, k taps, s sequences.
#pragma once

#include <cstdint>

#include "core/cuda.h"
#include "kernels/sequence_range.h"
#include "kernels/view.h"

namespace coluber {

class Arena;
class ThreadPool;

// T is what the tokens' numbers are stored in, P what parameters and states are (kernels/selective_scan.h).
template <class T, class P = T>
struct CausalConv1dParams {
  std::int64_t d = 0, k = 0;
  bool silu = false, reverse = false;
  View<const T, 3> x;                        // (b,l,d)
  View<const P, 2> weight;                   // (d,k)
  const P* bias = nullptr;                   // (d), optional
  View<const std::uint8_t, 2> resets;        // (b,l), optional
  const SequenceRange* sequences = nullptr;  // on a GPU in its memory, or null: the b rows are the sequences
  std::int64_t num_sequences = 0;
  View<const P, 3> state_in;  // (s,d,k-1), optional
  View<P, 3> state_out;       // (s,d,k-1), optional, may be state_in; forward only
  View<T, 3> y;               // (b,l,d); forward only
};

// Overwritten; absent ones are not wanted.
template <class T, class P = T>
struct CausalConv1dGradParams {
  View<const T, 3> grad_y;          // (b,l,d)
  View<const P, 3> grad_state_out;  // (s,d,k-1), optional
  View<T, 3> grad_x;                // (b,l,d)
  View<P, 2> grad_weight;           // (d,k)
  P* grad_bias = nullptr;           // (d), optional
  View<P, 3> grad_state_in;         // (s,d,k-1), optional
};

namespace cpu {

// x, y, grad_y and grad_x must be contiguous in their last axis.
void causal_conv1d_forward(ThreadPool& threads, Arena& scratch, const CausalConv1dParams<float>& p);
void causal_conv1d_backward(ThreadPool& threads, Arena& scratch, const CausalConv1dParams<float>& p,
                            const CausalConv1dGradParams<float>& g);

}  // namespace cpu

namespace cuda {

// Numbers of taps that go through registers: each has kernels of its own. Others take plain ones.
inline constexpr std::int64_t kFewestTaps = 2, kMostTaps = 8;

// T: float, bfloat16 or float16. All memory is the device's; otherwise as above.
template <class T>
void causal_conv1d_forward(const Stream& stream, const CausalConv1dParams<T, float>& p);
template <class T>
void causal_conv1d_backward(const Stream& stream, const CausalConv1dParams<T, float>& p,
                            const CausalConv1dGradParams<T, float>& g);

}  // namespace cuda
}  // namespace coluber
