// AdamW (arXiv 1711.05101, algorithm 2; bias correction as in arXiv 1412.6980), one step for n numbers:
//
//   g = grad grad_scale;   m = beta1 m + (1-beta1) g;   v = beta2 v + (1-beta2) g^2
//   p -= lr (m / (1-beta1^t) / (sqrt(v / (1-beta2^t)) + eps) + weight_decay p)
//
// Called by ops/optimizer.cc. One pass: four reads and three writes of n numbers.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/cuda.h"

namespace coluber {

class ThreadPool;

template <class T>
struct AdamWParams {
  std::int64_t n = 0;
  double lr = 0, beta1 = 0, beta2 = 0, eps = 0, weight_decay = 0, grad_scale = 1;
  std::int64_t step = 1;  // t, counted from 1
  T* param = nullptr;
  const T* grad = nullptr;
  T* exp_avg = nullptr;     // m
  T* exp_avg_sq = nullptr;  // v

  double bias_correction1() const { return 1 - std::pow(beta1, static_cast<double>(step)); }
  double bias_correction2() const { return 1 - std::pow(beta2, static_cast<double>(step)); }
};

namespace cpu {

void adamw_step(ThreadPool& threads, const AdamWParams<float>& p);

}  // namespace cpu

namespace cuda {

// What all tensors of an update share and changes from one to the next, as the kernel takes it.
struct AdamWScalars {
  double lr;
  float grad_scale, rate, correction2;  // rate: lr / (1-beta1^t); correction2: 1 / (1-beta2^t)
  std::int32_t skip;                    // 1: nothing is to change
};
// What they are made of, in device memory but for `clip`.
struct AdamWInputs {
  const double *lr, *bias_correction1, *bias_correction2;
  const double* grad_factor;     // on all gradients, beside the clipping
  const double* sum_of_squares;  // of all gradients
  const double* losses;          // (num_losses): like that sum, not finite where the step is not to be taken
  std::int64_t num_losses;
  double clip;  // largest norm, 0: none
};

// Many tensors in one launch; all share the numbers of `tensors[0]` but for sizes, pointers and weight_decay.
// `scalars`, in device memory, optional: read when the kernels run instead of lr, grad_scale and step.
void adamw_step(const Stream& stream, const AdamWParams<float>* tensors, std::int64_t count,
                const AdamWScalars* scalars = nullptr);
// Scalars of an update whose gradients the device alone knows, and *norm = sqrt(sum_of_squares): grad_scale =
// grad_factor min(1, clip / (norm + 1e-6)). `skip` is set where norm or a loss is not finite, and stays.
void adamw_scalars(const Stream& stream, const AdamWInputs& inputs, double* norm, AdamWScalars* scalars);

}  // namespace cuda
}  // namespace coluber
