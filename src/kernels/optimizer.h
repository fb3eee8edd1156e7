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

// Many tensors in one launch; all share the numbers of `tensors[0]` but for sizes, pointers and weight_decay.
void adamw_step(const Stream& stream, const AdamWParams<float>* tensors, std::int64_t count);

}  // namespace cuda
}  // namespace coluber
