#include "simd_functions.h"

#include "kernels/cpu/simd.h"
#include "kernels/cpu/spans.h"

namespace coluber::cpu::COLUBER_ISA {

int simd_lanes() {
  return kLanes;
}

void simd_apply(SimdFunction function, const float* x, float* y, std::int64_t n) {
  for_vectors(n, [&](std::int64_t i, auto part) {
    const VecF v = load(x + i, part);
    auto apply = [&] {
      switch (function) {
        case SimdFunction::kExp2: return exp2(v);
        case SimdFunction::kExp: return exp(v);
        case SimdFunction::kSigmoid: return sigmoid(v);
        case SimdFunction::kSilu: return silu(v);
        case SimdFunction::kLog: return log(v);
        case SimdFunction::kSoftplus: return softplus(v);
        case SimdFunction::kAbs: return abs(v);
      }
      return v;
    };
    store(y + i, apply(), part);
  });
}

void simd_max_min(const float* a, const float* b, float* max, float* min) {
  store(max, cpu::COLUBER_ISA::max(load(a), load(b)));
  store(min, cpu::COLUBER_ISA::min(load(a), load(b)));
}

void simd_reduce(const float* x, float* sum, float* max) {
  *sum = reduce_add(load(x));
  *max = reduce_max(load(x));
}

void simd_widen_bf16(const bfloat16* x, float* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += kLanes) store(y + i, load_bf16(x + i));
}

void simd_round_bf16(const float* x, bfloat16* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += kLanes) store_bf16(y + i, load(x + i));
}

void simd_copy_first(const float* x, float* y, std::int64_t n) {
  const VecF v = load_first(x, n);
  store(y, v);                           // zeros beyond n
  store_first(y + kLanes, v + 1.0f, n);  // nothing beyond n
}

void simd_double_span(const float* x, float* y, std::int64_t n, float* sum) {
  for_vectors(n, [&](std::int64_t i, auto part) { store(y + i, 2.0f * load(x + i, part), part); });
  *sum = sum_vectors(n, [&](std::int64_t i, auto part) { return within(load(x + i, part) + 1.0f, part); });
}

}  // namespace coluber::cpu::COLUBER_ISA
