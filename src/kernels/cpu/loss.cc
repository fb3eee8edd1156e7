// Cross entropy, row by row: maximum, sum of exponentials, gradient. One source, compiled per instruction set.
//
// The exponentials are computed once, relative to the row's maximum, and kept where the gradient goes; the last pass
// scales them. exp() has relative error 3e-7 + 6e-8 |x|; at x = -20 a term is 2e-9 of the largest, so the sum is as
// accurate as its large terms: 4e-7 relative, and the loss 4e-7 absolute plus the rounding of the logits themselves.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/loss_isa.h"
#include "kernels/cpu/simd.h"

namespace coluber::cpu::COLUBER_ISA {
namespace {

constexpr std::int64_t kBlock = 1024;  // partial sums in f32 are at most this many terms long

float row_max(const float* row, std::int64_t v) {
  VecF most = splat(-std::numeric_limits<float>::infinity());
  std::int64_t j = 0;
  for (; j + kLanes <= v; j += kLanes) most = max(most, load(row + j));
  float result = reduce_max(most);
  for (; j < v; ++j) result = std::max(result, row[j]);
  return result;
}

// e^x for x <= 0. NaN stays NaN, so that a diverged model is seen; its row may then hold positive x, which the maximum
// missed, and must not overflow.
VecF exp_or_nan(VecF x) {
  return x == x ? exp(min(x, splat(0.0f))) : x;
}

// Sum of e^(row - most); the terms go to `terms` unless it is null.
double sum_of_exponentials(const float* row, float most, float* terms, std::int64_t v) {
  double total = 0;
  for (std::int64_t begin = 0; begin < v; begin += kBlock) {
    const std::int64_t end = std::min(begin + kBlock, v);
    VecF sum[2] = {};
    std::int64_t j = begin;
    for (; j + 2 * kLanes <= end; j += 2 * kLanes) {
      for (int half = 0; half < 2; ++half) {
        const VecF e = exp_or_nan(load(row + j + half * kLanes) - most);
        sum[half] += e;
        if (terms != nullptr) store(terms + j + half * kLanes, e);
      }
    }
    for (; j < end; j += kLanes) {
      const std::int64_t count = std::min<std::int64_t>(kLanes, end - j);
      const VecF e = exp_or_nan(load_first(row + j, count) - most);
      float lanes[kLanes];
      store(lanes, e);
      std::fill(lanes + count, lanes + kLanes, 0.0f);
      sum[0] += load(lanes);
      if (terms != nullptr) std::copy(lanes, lanes + count, terms + j);
    }
    total += static_cast<double>(reduce_add(sum[0] + sum[1]));
  }
  return total;
}

}  // namespace

void cross_entropy_rows(const CrossEntropyRowsParams<float>& p) {
  for (std::int64_t i = 0; i < p.rows; ++i) {
    const float* row = p.logits + i * p.ld;
    float* grad = p.grad == nullptr ? nullptr : p.grad + i * p.ldg;
    const std::int32_t target = p.targets[i];
    if (target < 0) {
      if (p.loss != nullptr) p.loss[i] = 0;
      if (grad != nullptr) std::fill(grad, grad + p.v, 0.0f);
      continue;
    }
    const double most = static_cast<double>(row_max(row, p.v));
    const double target_logit = static_cast<double>(row[target]);  // read before grad, which may be row, is written
    const double sum = sum_of_exponentials(row, static_cast<float>(most), grad, p.v);
    if (p.loss != nullptr) p.loss[i] = most + std::log(sum) - target_logit;
    if (grad == nullptr) continue;
    const float scale = static_cast<float>(p.grad_scale / sum);
    for (std::int64_t j = 0; j < p.v; ++j) grad[j] *= scale;
    // (p - 1) scale with p in double: p is near 1 once a model has learned, and the difference is what matters.
    grad[target] = static_cast<float>((std::exp(target_logit - most) / sum - 1) * p.grad_scale);
  }
}

}  // namespace coluber::cpu::COLUBER_ISA
