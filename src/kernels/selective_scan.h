// selective_scan: the S6 recurrence (arXiv 2312.00752, equations 2a and 2b with the discretisation of section 3.2).
//
//   dt_t = softplus(dt_t + dt_bias)
//   h_t  = exp(dt_t A) h_{t-1} + dt_t B_t u_t          per channel and state
//   y_t  = sum_n C_t h_t + D u_t                       complex: 2 Re(sum_n C_t h_t)
//   y_t  = y_t silu(z_t)
//
// Called by ops/selective_scan.cc, which checks shapes. Extents: b rows, l tokens, d channels, n states, g groups.
#pragma once

#include <cstdint>

#include "core/cuda.h"
#include "kernels/sequence_range.h"
#include "kernels/view.h"

namespace coluber {

class Arena;
class ThreadPool;

// T is what the tokens' numbers are stored in, P what parameters and states are: the same on a CPU; on a GPU T may be
// 16 bits wide where P is f32. Sums and exponentials are computed in P.
template <class T, class P = T>
struct SelectiveScanParams {
  std::int64_t d = 0, n = 0;
  bool is_complex = false;  // A, constant B and C, and states hold re, im pairs: n states take 2n elements
  bool dt_softplus = false, reverse = false;
  View<const T, 3> u, dt, z;  // (b,l,d)
  View<const P, 2> A;         // (d,n e), e = 1 or 2 elements per state; contiguous rows
  View<const T, 4> B, C;      // (b,l,g,n e); constant ones have g = d and strides 0 for b and l
  bool B_is_constant = false, C_is_constant = false;
  const P* D = nullptr;        // (d)
  const P* dt_bias = nullptr;  // (d)
  View<const std::uint8_t, 2> resets;
  const SequenceRange* sequences = nullptr;  // on a GPU in its memory, or null: the b rows are the sequences
  std::int64_t num_sequences = 0;
  View<const P, 3> state_in;  // (s,d,n e)
  View<P, 3> state_out;       // (s,d,n e), may be state_in
  View<T, 3> y;               // (b,l,d)
};

// Absent ones are not wanted. Those of constant B and C have strides 0 along b and l.
template <class T, class P = T>
struct SelectiveScanGradParams {
  View<const T, 3> grad_y;          // (b,l,d)
  View<const P, 3> grad_state_out;  // (s,d,n e)
  View<T, 3> grad_u, grad_dt, grad_z;
  View<P, 2> grad_A;          // (d,n e)
  View<T, 4> grad_B, grad_C;  // shaped like B and C; constant: (1,1,d,n e)
  P* grad_D = nullptr;
  P* grad_dt_bias = nullptr;
  View<P, 3> grad_state_in;
};

namespace cpu {

// Floats of checkpoints that forward writes for backward, in the kernel's own layout.
std::int64_t selective_scan_checkpoint_elems(const SelectiveScanParams<float>& p);

// There must be a token and a channel; u, dt, z, y, B and C must be contiguous in their last axis. `checkpoints` may be
// null in both: not wanted in forward, recomputed in backward.
void selective_scan_forward(ThreadPool& threads, Arena& scratch, const SelectiveScanParams<float>& p,
                            float* checkpoints);
// Gradients may be uninitialised: all of them are overwritten.
void selective_scan_backward(ThreadPool& threads, Arena& scratch, const SelectiveScanParams<float>& p,
                             const float* checkpoints, const SelectiveScanGradParams<float>& g);

}  // namespace cpu

namespace cuda {

// T: float, bfloat16 or float16. All memory is the device's. Inputs may have any strides and alignment: the kernels in
// tiles want a contiguous last axis and rows that wide loads can read, and the slower ones for any shape do without. y
// must be contiguous in its last axis. No checkpoint elems: forward writes none and backward needs none. Otherwise as
// above.
template <class T>
std::int64_t selective_scan_checkpoint_elems(const Stream& stream, const SelectiveScanParams<T, float>& p);
template <class T>
void selective_scan_forward(const Stream& stream, const SelectiveScanParams<T, float>& p, float* checkpoints);
template <class T>
void selective_scan_backward(const Stream& stream, const SelectiveScanParams<T, float>& p, const float* checkpoints,
                             const SelectiveScanGradParams<T, float>& g);

}  // namespace cuda
}  // namespace coluber
