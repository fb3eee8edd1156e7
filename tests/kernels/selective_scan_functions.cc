#include "selective_scan_functions.h"

#include "kernels/cpu/selective_scan_math.h"

namespace coluber::cpu::COLUBER_ISA {

void scan_apply(ScanFunction function, const float* x, float* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += kLanes) {
    const VecF v = load(x + i);
    switch (function) {
      case ScanFunction::kExp: store(y + i, scan_exp(v)); break;
      case ScanFunction::kSoftplus: store(y + i, scan_softplus(v)); break;
      case ScanFunction::kSoftplusSlope: store(y + i, scan_softplus_slope(v).slope); break;
      case ScanFunction::kSigmoid: store(y + i, scan_sigmoid(v)); break;
      case ScanFunction::kReciprocal: store(y + i, reciprocal(v)); break;
    }
  }
}

void scan_exp2_product(const float* a, const float* b, float* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += kLanes) store(y + i, exp2_product(load(a + i), load(b + i)));
}

void scan_phase(const float* dt, const float* turns, float* re, float* im, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += kLanes) {
    const Complex phase = Complex::decay(load(dt + i), {VecF{}, load(turns + i)});
    store(re + i, phase.re);
    store(im + i, phase.im);
  }
}

int scan_transpose(float* matrix) {
  VecF rows[kLanes];
  for (int i = 0; i < kLanes; ++i) rows[i] = load(matrix + 16 * i);
  transpose<kLanes / 2>(rows);
  for (int i = 0; i < kLanes; ++i) store(matrix + 16 * i, rows[i]);
  return kLanes;
}

int scan_sum_rows(const float* matrix, float* sums) {
  VecF rows[kLanes];
  for (int i = 0; i < kLanes; ++i) rows[i] = load(matrix + 16 * i);
  store(sums, sum_rows(rows));
  return kLanes;
}

}  // namespace coluber::cpu::COLUBER_ISA
