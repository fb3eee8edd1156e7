// Tensors of more than 2^31 elements on a GPU. Inputs are one block of numbers over and over, so every block of a
// result has to be the same bits; the first is held against the CPU, and so sees that it is right. Offsets that lose
// their upper half would read or write other blocks, or the same one twice. Skipped where memory is too small.
#include <algorithm>
#include <string>

#include "coluber/ops.h"
#include "core/cuda.h"
#include "tests/cuda/cuda.h"

namespace coluber::testing {
namespace {

constexpr std::int64_t kBeyond = (std::int64_t{1} << 31) + 1;

class CudaLarge : public CudaTest {
 protected:
  // GB: of all tensors of a test at once.
  bool fits(double gigabytes) const {
    release_cached_memory(kGpu);
    return static_cast<double>(cuda_device_info(0).free_bytes) > gigabytes * 1e9;
  }
  void TearDown() override {
    if (cuda_device_count() > 0) release_cached_memory(kGpu);
  }
};
#define SKIP_UNLESS_FITS(gigabytes) \
  if (!fits(gigabytes)) GTEST_SKIP() << "needs " << (gigabytes) << " GB of free memory"

// `block` on the GPU `times` times along its first axis.
Tensor repeated(const Tensor& block, std::int64_t times) {
  Shape shape = block.shape();
  shape[0] *= times;
  const Tensor out = Tensor::empty(shape, block.dtype(), kGpu), from = block.to(kGpu);
  auto* bytes = static_cast<std::byte*>(out.raw());
  const std::int64_t all = out.size_bytes();
  std::int64_t done = from.size_bytes();
  cuda::copy_bytes(bytes, kGpu, from.raw(), kGpu, done);
  for (; done < all; done *= 2) cuda::copy_bytes(bytes + done, kGpu, bytes, kGpu, std::min(done, all - done));
  return out;
}

// The first rows of `all` are near `expected`, and so many rows at the end, and on both sides of element 2^31, are the
// same bits as they.
void expect_blocks(const std::string& what, const Tensor& all, const Tensor& expected, double bound) {
  const std::int64_t rows = expected.shape()[0], count = all.shape()[0] / rows;
  ASSERT_GT(all.numel(), kBeyond - 1) << what;
  const Tensor first = all.slice(0, 0, rows).to(kCpuDevice);
  EXPECT_LT(norm_error(first, expected), bound) << what;
  const std::int64_t middle = (std::int64_t{1} << 31) / expected.numel();
  for (std::int64_t block : {middle - 1, middle, count - 1}) {
    const Tensor other = all.slice(0, block * rows, (block + 1) * rows).to(kCpuDevice);
    EXPECT_TRUE(same_bits(first, other)) << what << ", block " << block << " of " << count;
  }
}

TEST_F(CudaLarge, SelectiveScan) {
  constexpr std::int64_t kL = 64, kD = 256, kN = 16, kRows = kBeyond / (kL * kD) + 2;
  SKIP_UNLESS_FITS(62);
  auto block = [&](const Shape& shape, std::uint64_t seed) {
    return random_tensor(shape, DType::kF32, seed).to(DType::kBF16);
  };
  ops::SelectiveScanArgs one;
  one.u = block({1, kL, kD}, 1), one.dt = block({1, kL, kD}, 2), one.z = block({1, kL, kD}, 3);
  one.B = block({1, kL, kN}, 4), one.C = block({1, kL, kN}, 5);
  one.A = Tensor::full({kD, kN}, -0.7, DType::kF32);
  one.D = random_tensor({kD}, DType::kF32, 6);
  one.dt_softplus = true;
  const Tensor grad_y = block({1, kL, kD}, 7);
  ops::SelectiveScanArgs many = one, wide = one;
  for (Tensor ops::SelectiveScanArgs::*x :
       {&ops::SelectiveScanArgs::u, &ops::SelectiveScanArgs::dt, &ops::SelectiveScanArgs::z, &ops::SelectiveScanArgs::B,
        &ops::SelectiveScanArgs::C}) {
    many.*x = repeated(one.*x, kRows);
    wide.*x = (one.*x).to(DType::kF32);
  }
  many.A = one.A.to(kGpu), many.D = one.D.to(kGpu);
  ops::SelectiveScanSaved saved, saved_one;
  const Tensor expected = ops::selective_scan_forward(ctx_, wide, nullptr, &saved_one);
  expect_blocks("y", ops::selective_scan_forward(ctx_, many, nullptr, &saved), expected, 4e-3);
  const ops::SelectiveScanGrads near = ops::selective_scan_backward(ctx_, wide, saved_one, grad_y.to(DType::kF32));
  const ops::SelectiveScanGrads got = ops::selective_scan_backward(ctx_, many, saved, repeated(grad_y, kRows));
  expect_blocks("gradient of u", got.u, near.u, 4e-3);
  expect_blocks("gradient of dt", got.dt, near.dt, 4e-3);
  expect_blocks("gradient of z", got.z, near.z, 4e-3);
  Tensor sum = near.A.clone();
  ops::scale_inplace(ctx_, sum, static_cast<double>(kRows));
  EXPECT_LT(norm_error(got.A, sum), 1e-3);
}

TEST_F(CudaLarge, CausalConv1d) {
  constexpr std::int64_t kL = 64, kD = 256, kRows = kBeyond / (kL * kD) + 2;
  SKIP_UNLESS_FITS(20);
  ops::CausalConv1dArgs one;
  one.x = random_tensor({1, kL, kD}, DType::kF32, 1).to(DType::kBF16);
  one.weight = random_tensor({kD, 4}, DType::kF32, 2), one.bias = random_tensor({kD}, DType::kF32, 3);
  one.silu = true;
  const Tensor grad_y = random_tensor({1, kL, kD}, DType::kF32, 4).to(DType::kBF16);
  ops::CausalConv1dArgs many = one, wide = one;
  many.x = repeated(one.x, kRows), many.weight = one.weight.to(kGpu), many.bias = one.bias.to(kGpu);
  wide.x = one.x.to(DType::kF32);
  expect_blocks("y", ops::causal_conv1d_forward(ctx_, many), ops::causal_conv1d_forward(ctx_, wide), 4e-3);
  const Tensor got = ops::causal_conv1d_backward(ctx_, many, repeated(grad_y, kRows)).x;
  expect_blocks("gradient of x", got, ops::causal_conv1d_backward(ctx_, wide, grad_y.to(DType::kF32)).x, 4e-3);
}

TEST_F(CudaLarge, Norm) {
  constexpr std::int64_t kM = 1024, kBlock = 16, kTimes = kBeyond / (kM * kBlock) + 2;
  SKIP_UNLESS_FITS(20);
  ops::NormArgs one;
  one.x = random_tensor({kBlock, kM}, DType::kF32, 1).to(DType::kBF16);
  one.weight = random_tensor({kM}, DType::kF32, 2);
  const Tensor grad_y = random_tensor({kBlock, kM}, DType::kF32, 3).to(DType::kBF16);
  ops::NormArgs many = one, wide = one;
  many.x = repeated(one.x, kTimes), many.weight = one.weight.to(kGpu);
  wide.x = one.x.to(DType::kF32);
  expect_blocks("y", ops::norm_forward(ctx_, many), ops::norm_forward(ctx_, wide), 4e-3);
  const Tensor got = ops::norm_backward(ctx_, many, repeated(grad_y, kTimes)).x;
  expect_blocks("gradient of x", got, ops::norm_backward(ctx_, wide, grad_y.to(DType::kF32)).x, 4e-3);
}

TEST_F(CudaLarge, Linear) {
  constexpr std::int64_t kIn = 64, kOut = 1024, kBlock = 16, kTimes = kBeyond / (kOut * kBlock) + 2;
  SKIP_UNLESS_FITS(10);
  ops::LinearArgs one;
  one.x = random_tensor({kBlock, kIn}, DType::kF32, 1).to(DType::kBF16);
  one.weight = random_tensor({kOut, kIn}, DType::kF32, 2).to(DType::kBF16);
  one.compute = DType::kBF16;
  ops::LinearArgs many = one, wide = one;
  many.x = repeated(one.x, kTimes), many.weight = one.weight.to(kGpu);
  wide.x = one.x.to(DType::kF32), wide.weight = one.weight.to(DType::kF32), wide.compute = DType::kF32;
  expect_blocks("y", ops::linear_forward(ctx_, many), ops::linear_forward(ctx_, wide), 4e-3);
}

TEST_F(CudaLarge, Embedding) {
  constexpr std::int64_t kM = 1024, kBlock = 16, kTimes = kBeyond / (kM * kBlock) + 2;
  SKIP_UNLESS_FITS(20);
  const Tensor table = random_tensor({100, kM}, DType::kF32, 1), ids = Tensor::empty({kBlock}, DType::kI32);
  for (std::int32_t i = 0; i < kBlock; ++i) ids.data<std::int32_t>()[i] = i * 37 % 100;
  const Tensor many = repeated(ids, kTimes);
  const Tensor y = ops::embedding_forward(ctx_, many, table.to(kGpu));
  expect_blocks("y", y, ops::embedding_forward(ctx_, ids, table), 1e-7);
  const Tensor got = Tensor::zeros({100, kM}, DType::kF32, kGpu), near = Tensor::zeros({100, kM}, DType::kF32);
  ops::embedding_backward(ctx_, many, y, got);
  ops::embedding_backward(ctx_, ids, ops::embedding_forward(ctx_, ids, table), near);
  ops::scale_inplace(ctx_, near, static_cast<double>(kTimes));
  EXPECT_LT(norm_error(got, near), 1e-3);
}

TEST_F(CudaLarge, CrossEntropy) {
  constexpr std::int64_t kV = 32768, kBlock = 4, kTimes = kBeyond / (kV * kBlock) + 2;
  SKIP_UNLESS_FITS(20);
  const Tensor logits = random_tensor({kBlock, kV}, DType::kF32, 1), targets = Tensor::empty({kBlock}, DType::kI32);
  for (std::int32_t i = 0; i < kBlock; ++i) targets.data<std::int32_t>()[i] = i * 7919;
  const Tensor many = repeated(logits, kTimes), all_targets = repeated(targets, kTimes);
  EXPECT_NEAR(ops::cross_entropy_forward(ctx_, many, all_targets), ops::cross_entropy_forward(ctx_, logits, targets),
              1e-5);
  const Tensor got = ops::cross_entropy_backward(ctx_, many, all_targets, static_cast<double>(kTimes));
  expect_blocks("gradient", got, ops::cross_entropy_backward(ctx_, logits, targets, 1), 1e-5);
}

TEST_F(CudaLarge, AdamW) {
  constexpr std::int64_t kBlock = 1 << 16, kTimes = kBeyond / kBlock + 2;
  SKIP_UNLESS_FITS(38);
  const Tensor param = random_tensor({kBlock}, DType::kF32, 1), grad = random_tensor({kBlock}, DType::kF32, 2);
  const Tensor m = Tensor::zeros({kBlock}, DType::kF32), v = Tensor::zeros({kBlock}, DType::kF32);
  const Tensor many = repeated(param, kTimes), all_m = repeated(m, kTimes), all_v = repeated(v, kTimes);
  ops::adamw_step(ctx_, {}, many, repeated(grad, kTimes), all_m, all_v);
  ops::adamw_step(ctx_, {}, param, grad, m, v);
  expect_blocks("parameters", many, param, 1e-6);
  expect_blocks("first moments", all_m, m, 1e-6);
  expect_blocks("second moments", all_v, v, 1e-6);
}

}  // namespace
}  // namespace coluber::testing
