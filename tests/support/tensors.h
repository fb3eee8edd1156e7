// Tensors for tests: random ones, comparisons, and the sentence of a refusal.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "coluber/context.h"
#include "coluber/error.h"
#include "coluber/tensor.h"
#include "core/rng.h"

namespace coluber::testing {

inline constexpr double kUnitF32 = 0x1p-24;  // unit roundoff: half the distance from 1 to the next number
inline constexpr double kUnitF64 = 0x1p-53;

// Standard normal numbers times `scale`, the same on every run.
inline Tensor random_tensor(const Shape& shape, DType dtype, std::uint64_t seed, double scale = 1) {
  const Tensor flat = Tensor::empty({shape.numel()}, DType::kF64);
  const Rng rng(seed, 0);
  for (std::int64_t i = 0; i < flat.numel(); ++i)
    flat.data<double>()[i] = scale * rng.normal(static_cast<std::uint64_t>(i));
  return flat.reshape(shape).to(dtype);
}

// max |got - expected| / max(|expected|, 1); infinity when shapes differ or a NaN stands against a number.
inline double max_error(const Tensor& got, const Tensor& expected) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (!got.defined() || !expected.defined()) return got.defined() == expected.defined() ? 0 : kInfinity;
  if (!(got.shape() == expected.shape())) return kInfinity;
  const Tensor a = got.to(DType::kF64).contiguous(), b = expected.to(DType::kF64).contiguous();
  double worst = 0;
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    const double x = a.data<double>()[i], y = b.data<double>()[i];
    if (x == y || (std::isnan(x) && std::isnan(y))) continue;
    const double error = std::abs(x - y) / std::max(std::abs(y), 1.0);
    worst = std::isnan(error) ? kInfinity : std::max(worst, error);
  }
  return worst;
}

inline double max_abs(const Tensor& t) {
  if (!t.defined()) return 0;
  const Tensor a = t.to(DType::kF64).contiguous();
  double worst = 0;
  for (std::int64_t i = 0; i < a.numel(); ++i) worst = std::max(worst, std::abs(a.data<double>()[i]));
  return worst;
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  if (a.defined() != b.defined()) return false;
  if (!a.defined()) return true;
  if (a.dtype() != b.dtype() || !(a.shape() == b.shape())) return false;
  const Tensor x = a.to(kCpuDevice).contiguous(), y = b.to(kCpuDevice).contiguous();
  return x.numel() == 0 || std::memcmp(x.raw(), y.raw(), static_cast<std::size_t>(x.size_bytes())) == 0;
}

// What f refuses with; empty when it does not.
template <class F>
std::string refusal(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

}  // namespace coluber::testing
