// Tests on an NVIDIA GPU: skipped with the reason where there is none.
#pragma once

#include <gtest/gtest.h>

#include "coluber/device.h"
#include "tests/support/tensors.h"

namespace coluber::testing {

inline constexpr Device kGpu{DeviceType::kCuda, 0};

class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << cuda_unavailable_reason();
  }

  Context ctx_;
};

inline Tensor on_gpu(const Tensor& t) {
  return t.to(kGpu);
}

inline double unit_roundoff(DType dtype) {
  switch (dtype) {
    case DType::kBF16: return 0x1p-8;
    case DType::kF16: return 0x1p-11;
    case DType::kF64: return kUnitF64;
    default: return kUnitF32;
  }
}

// ||got - expected|| / ||expected||; infinity when shapes differ or a number is missing.
inline double norm_error(const Tensor& got, const Tensor& expected) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (!got.defined() || !(got.shape() == expected.shape())) return kInfinity;
  const Tensor a = got.to(kCpuDevice).to(DType::kF64).contiguous(),
               b = expected.to(kCpuDevice).to(DType::kF64).contiguous();
  double difference = 0, size = 0;
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    const double x = a.data<double>()[i], y = b.data<double>()[i];
    difference += (x - y) * (x - y);
    size += y * y;
  }
  if (std::isnan(difference)) return kInfinity;
  return size > 0 ? std::sqrt(difference / size) : std::sqrt(difference);
}

}  // namespace coluber::testing
