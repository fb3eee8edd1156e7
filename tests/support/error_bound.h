// Bounded: a double that knows how far a float32 computation of it may be off.
//
// A kernel written for any number type is run with Bounded and gives, for each result, the exact value (to double) and
// a bound on the rounding errors of computing it in float32. Products and sums count one rounding each (u = 2^-24),
// relative to the sum of the absolute values of all terms, so the bound holds in whatever order terms are added.
// Functions count what src/kernels/cpu/selective_scan_math.h states.
#pragma once

#include <algorithm>
#include <cmath>

#include "tests/support/tensors.h"

namespace coluber::testing {

struct Bounded {
  double value = 0;
  double size = 0;   // of all terms, each without its sign
  double error = 0;  // |float32 - value| is at most this

  Bounded() = default;
  Bounded(double exact) : value(exact), size(std::abs(exact)) {}
  Bounded(double v, double s, double e) : value(v), size(s), error(e) {}

  // |value| once its own error is counted.
  double most() const { return std::abs(value) + error; }

  friend Bounded operator-(const Bounded& a) { return {-a.value, a.size, a.error}; }
  friend Bounded operator+(const Bounded& a, const Bounded& b) {
    const double sum = a.size + b.size;
    return {a.value + b.value, sum, a.error + b.error + kUnitF32 * (sum + a.error + b.error)};
  }
  friend Bounded operator-(const Bounded& a, const Bounded& b) { return a + -b; }
  friend Bounded operator*(const Bounded& a, const Bounded& b) {
    const double carried = a.error * b.most() + b.error * std::abs(a.value);
    return {a.value * b.value, a.size * b.size, carried + kUnitF32 * (a.size * b.size + carried)};
  }
  friend Bounded operator/(const Bounded& a, const Bounded& b) {
    const double ratio = a.value / b.value, least = std::abs(b.value) - b.error;
    return {ratio, a.size / std::abs(b.value),
            (a.error + std::abs(ratio) * b.error) / least + 3 * kUnitF32 * a.size / least};
  }
  Bounded& operator+=(const Bounded& b) { return *this = *this + b; }
  Bounded& operator-=(const Bounded& b) { return *this = *this - b; }
  Bounded& operator*=(const Bounded& b) { return *this = *this * b; }

  friend bool operator>(const Bounded& a, const Bounded& b) { return a.value > b.value; }
  friend bool operator>=(const Bounded& a, const Bounded& b) { return a.value >= b.value; }
};

// 2^(x log2(e)): the polynomial 3 u, and u |x| for each of the roundings of the product and of its factor.
inline Bounded exp(const Bounded& x) {
  const double value = std::exp(x.value);
  return {value, value, value * (std::expm1(x.error) + (5 + 2 * std::abs(x.value)) * kUnitF32)};
}
inline Bounded log1p(const Bounded& x) {
  const double value = std::log1p(x.value);
  return {value, std::abs(value), x.error / (1 + x.value - x.error) + 8 * kUnitF32 * std::abs(value)};
}
// Roundings of the phase count like those of exp.
inline Bounded cos(const Bounded& x) {
  return {std::cos(x.value), 1, std::min(2.0, x.error + (5 + 3 * std::abs(x.value)) * kUnitF32)};
}
inline Bounded sin(const Bounded& x) {
  return {std::sin(x.value), 1, std::min(2.0, x.error + (5 + 3 * std::abs(x.value)) * kUnitF32)};
}

}  // namespace coluber::testing
