// Kernels of namespace cuda against the reference in double: numbers that the storage type holds go to the device, and
// what comes back is held against the reference of exactly those numbers.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "coluber/tensor.h"
#include "core/cuda.h"
#include "ops/op_check.h"
#include "tests/cuda/cuda.h"
#include "tests/support/matrix_bounds.h"

namespace coluber::testing {

using ops::view_of;

class CudaKernel : public CudaTest {
 protected:
  cuda::Stream stream() const { return cuda::current_stream(0); }
};

// The same numbers twice: `exact` in double here, `device` as stored there.
struct Numbers {
  Tensor exact, device;

  explicit operator bool() const { return exact.defined(); }
};

inline Numbers numbers_of(const Tensor& values, DType dtype) {
  const Tensor stored = values.to(dtype);
  return {stored.to(DType::kF64), stored.to(kGpu)};
}
inline Numbers random_numbers(const Shape& shape, DType dtype, std::uint64_t seed, double scale = 1) {
  return numbers_of(random_tensor(shape, DType::kF64, seed, scale), dtype);
}
// For a result: zeros for the reference, which may add; NaN for the kernel, which must write all of it.
inline Numbers result(const Shape& shape, DType dtype) {
  return {Tensor::zeros(shape, DType::kF64),
          Tensor::full(shape, std::numeric_limits<double>::quiet_NaN(), dtype, kGpu)};
}

// |got - expected| <= unit |expected| for the rounding to storage, and `roundings` of f32 relative to `size`, the sum
// of the absolute values of all terms (or a bound of it).
inline void expect_close(const std::string& what, const Tensor& got, const Tensor& expected, const Tensor& size,
                         double roundings) {
  ASSERT_TRUE(got.shape() == expected.shape()) << what;
  const DType dtype = got.dtype();
  const Tensor a = got.to(kCpuDevice).to(DType::kF64).contiguous(), b = expected.contiguous(), s = size.contiguous();
  const double unit = unit_roundoff(dtype), tiny = dtype == DType::kF16 ? 0x1p-25 : 0x1p-140;
  double worst = 0;
  std::int64_t where = -1;
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    const double x = a.data<double>()[i], y = b.data<double>()[i];
    if (x == y || (std::isnan(x) && std::isnan(y))) continue;
    const double compute = roundings * kUnitF32 * s.data<double>()[i];
    const double bound = unit * (std::abs(y) + compute) + compute + tiny;
    const double share = std::abs(x - y) / bound;
    if (share <= worst) continue;
    worst = std::isnan(share) ? std::numeric_limits<double>::infinity() : share;
    where = i;
    if (std::isinf(worst)) break;
  }
  EXPECT_LE(worst, 1) << what << " (" << dtype_name(dtype) << "): element " << where << " of "
                      << got.shape().to_string() << ", " << (where < 0 ? 0 : a.data<double>()[where]) << " for "
                      << (where < 0 ? 0 : b.data<double>()[where]);
  ::testing::Test::RecordProperty(what, std::to_string(worst));
}

template <class F>
void for_each_storage(F&& f) {
  f(float{});
  f(bfloat16{});
  f(float16{});
}

}  // namespace coluber::testing
