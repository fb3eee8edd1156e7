// One pass of plain scalar code: every line has a vector instruction, so the compiler does the rest.
#include "kernels/cpu/optimizer_isa.h"
#include "kernels/cpu/simd.h"

namespace coluber::cpu::COLUBER_ISA {

void adamw_span(const AdamWParams<float>& p, std::int64_t begin, std::int64_t end) {
  // Constants in double, rounded once. 1 - beta2 of 0.999 would lose three digits in float.
  const auto grad_scale = static_cast<float>(p.grad_scale);
  const auto beta1 = static_cast<float>(p.beta1), rest1 = static_cast<float>(1 - p.beta1);
  const auto beta2 = static_cast<float>(p.beta2), rest2 = static_cast<float>(1 - p.beta2);
  const auto rate = static_cast<float>(p.lr / p.bias_correction1());
  const auto inverse_root2 = static_cast<float>(1 / std::sqrt(p.bias_correction2()));
  const auto eps = static_cast<float>(p.eps), decay = static_cast<float>(p.lr * p.weight_decay);
  float* __restrict param = p.param;
  const float* __restrict grad = p.grad;
  float* __restrict exp_avg = p.exp_avg;
  float* __restrict exp_avg_sq = p.exp_avg_sq;
  for (std::int64_t i = begin; i < end; ++i) {
    const float g = grad[i] * grad_scale;
    const float m = beta1 * exp_avg[i] + rest1 * g;
    const float v = beta2 * exp_avg_sq[i] + rest2 * g * g;
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
    param[i] -= rate * m / (__builtin_sqrtf(v) * inverse_root2 + eps) + decay * param[i];
  }
}

}  // namespace coluber::cpu::COLUBER_ISA
