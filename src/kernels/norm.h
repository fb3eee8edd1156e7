// norm: RMS norm (arXiv 1910.07467) or layer norm (arXiv 1607.06450) over groups of a row, with residual and gate.
//
//   r = x + residual;   v = r silu(z) when gated before the norm, else r
//   v_hat = (v - mean) / sqrt(mean((v - mean)^2) + eps), the mean is 0 for RMS; means are over a group of channels
//   y = v_hat weight + bias, times silu(z) when the norm comes before the gate
//
// Backward recomputes v_hat; with h = grad_v_hat = grad_y weight: grad_v = (h - mean(h) - v_hat mean(h v_hat)) / sigma,
// where mean(h) is for layer norm only.
// Called by ops/norm.cc, which checks shapes and joins all leading axes into rows. Extents: rows, m channels.
#pragma once

#include <cstdint>

#include "coluber/config.h"
#include "core/cuda.h"
#include "kernels/view.h"

namespace coluber {

class Arena;
class ThreadPool;

// Rows are contiguous in their channels. X is what x is stored in, T what y and z are, P what the residual stream and
// parameters are: one type on a CPU; on a GPU X and T may be 16 bits wide where P is f32. Sums are computed in P.
template <class X, class T = X, class P = X>
struct NormParams {
  std::int64_t rows = 0, m = 0;
  std::int64_t group = 0;  // channels of a group, a divisor of m
  NormKind kind = NormKind::kRms;
  P eps = 0;
  bool norm_before_gate = false;
  View<const X, 2> x;         // (rows,m)
  View<const P, 2> residual;  // optional
  View<const T, 2> z;         // optional
  const P* weight = nullptr;  // (m), optional
  const P* bias = nullptr;    // (m), optional
  View<T, 2> y;               // forward only
  View<P, 2> residual_out;    // r, optional; forward only
};

template <class X, class T = X, class P = X>
struct NormGradParams {
  View<const T, 2> grad_y;             // (rows,m)
  View<const P, 2> grad_residual_out;  // optional
  View<X, 2> grad_x;                   // overwritten, like the others
  View<T, 2> grad_x_narrow;            // optional, GPU: the same numbers once more, in T
  View<T, 2> grad_z;                   // optional
  P* grad_weight = nullptr;            // (m), optional
  P* grad_bias = nullptr;              // (m), optional
};

namespace cpu {

void norm_forward(ThreadPool& threads, Arena& scratch, const NormParams<float>& p);
void norm_backward(ThreadPool& threads, Arena& scratch, const NormParams<float>& p, const NormGradParams<float>& g);

}  // namespace cpu

namespace cuda {

// (X, T): (float, float), (bfloat16, bfloat16), (float16, float16), and for the first norm of a stack, whose x is the
// residual stream itself, (float, bfloat16) and (float, float16). All memory is the device's.
template <class X, class T>
void norm_forward(const Stream& stream, const NormParams<X, T, float>& p);
template <class X, class T>
void norm_backward(const Stream& stream, const NormParams<X, T, float>& p, const NormGradParams<X, T, float>& g);

}  // namespace cuda
}  // namespace coluber
