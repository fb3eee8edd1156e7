// Cross entropy over rows of logits (docs/math.md), with its gradient in place:
//
//   lse = max + log(sum_j exp(logit_j - max));   loss = lse - logit[target]
//   grad_j = (exp(logit_j - lse) - [j == target]) grad_scale
//
// A row whose target is -1 has loss 0 and gradient 0. The sum over a row and the loss are double, exponentials f32
// (f64 in the reference). NaN or +inf in a row makes its loss NaN. Called by ops/cross_entropy.cc, which
// checks the targets; the kernels run on the calling thread, a tile of rows at a time.
#pragma once

#include <cstdint>

#include "core/cuda.h"

namespace coluber {

// G: of the gradient, T unless it is to be rounded to fewer bits.
template <class T, class G = T>
struct CrossEntropyRowsParams {
  std::int64_t rows = 0, v = 0;
  const T* logits = nullptr;  // (rows,v)
  std::int64_t ld = 0;
  const std::int32_t* targets = nullptr;  // (rows), -1 or in [0, v)
  double* loss = nullptr;                 // (rows), optional
  // (rows,v), optional. Its rows may begin where those of logits do: they are read before they are written over.
  G* grad = nullptr;
  std::int64_t ldg = 0;
  double grad_scale = 1;
  const double* grad_scale_at = nullptr;  // on a GPU: where it is read when the kernel runs, instead of grad_scale
};

namespace cpu {

void cross_entropy_rows(const CrossEntropyRowsParams<float>& params);

}  // namespace cpu

namespace cuda {

// T: float, bfloat16 or float16; G: T, or for float any of them. `loss` is double, sums and exponentials are f32 with a
// compensated row sum.
template <class T, class G>
void cross_entropy_rows(const Stream& stream, const CrossEntropyRowsParams<T, G>& params);
// *out = *scale sum of loss (rows), in a fixed order. All memory is the device's.
void cross_entropy_total(const Stream& stream, const double* loss, std::int64_t rows, const double* scale, double* out);

}  // namespace cuda
}  // namespace coluber
