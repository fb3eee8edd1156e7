// The meaning of AdamW. Arithmetic is double, storage T.
#pragma once

#include "kernels/optimizer.h"

namespace coluber::reference {

template <class T>
void adamw_step(const AdamWParams<T>& p) {
  const double correction1 = p.bias_correction1(), correction2 = p.bias_correction2();
  for (std::int64_t i = 0; i < p.n; ++i) {
    const double g = p.grad[i] * p.grad_scale;
    const double m = p.beta1 * p.exp_avg[i] + (1 - p.beta1) * g;
    const double v = p.beta2 * p.exp_avg_sq[i] + (1 - p.beta2) * g * g;
    const double direction = m / correction1 / (std::sqrt(v / correction2) + p.eps);
    p.exp_avg[i] = static_cast<T>(m);
    p.exp_avg_sq[i] = static_cast<T>(v);
    p.param[i] = static_cast<T>(p.param[i] - p.lr * (direction + p.weight_decay * p.param[i]));
  }
}

}  // namespace coluber::reference
