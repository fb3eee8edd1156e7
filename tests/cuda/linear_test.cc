// Products on a GPU against f64, for every dtype, few rows and many, odd sizes and strided views.
#include <utility>

#include "coluber/ops.h"
#include "tests/cuda/cuda.h"
#include "tests/support/matrix_bounds.h"

namespace coluber::testing {
namespace {

class CudaLinear : public CudaTest {};

struct Sizes {
  std::int64_t tokens, in, out;
};
constexpr Sizes kSizes[] = {{1, 768, 3072},  {2, 40, 24},     {3, 7, 5},       {8, 1536, 80},   {9, 64, 48},
                            {130, 100, 36},  {257, 33, 65},   {17, 1032, 72},  {40, 520, 24},   {64, 264, 2400},
                            {33, 64, 12000}, {8, 6152, 48},   {1, 264, 20000}, {12, 136, 5120}, {31, 264, 1540},
                            {20, 1032, 770}, {48, 264, 6144}, {63, 328, 8200}, {64, 72, 10248}};

// Rounding of the result to its dtype, and of sums of k products in f32.
double bound(DType dtype, std::int64_t k) {
  return unit_roundoff(dtype) + 4 * gamma_f32(k);
}

TEST_F(CudaLinear, ForwardAndBackward) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const Sizes& s : kSizes) {
      SCOPED_TRACE(std::string(dtype_name(dtype)) + " " + Shape({s.tokens, s.in, s.out}).to_string());
      const Tensor x = random_tensor({s.tokens, s.in}, dtype, 1), w = random_tensor({s.out, s.in}, dtype, 2);
      const Tensor bias = random_tensor({s.out}, DType::kF32, 3), grad_y = random_tensor({s.tokens, s.out}, dtype, 4);
      const ops::LinearArgs exact{x.to(DType::kF64), w.to(DType::kF64), bias.to(DType::kF64), DType::kF32, {}};
      const ops::LinearArgs args{on_gpu(x), on_gpu(w), on_gpu(bias), DType::kF32, {}};
      EXPECT_LE(norm_error(ops::linear_forward(ctx_, args), ops::linear_forward(ctx_, exact)), bound(dtype, s.in));
      const ops::LinearGrads expected = ops::linear_backward(ctx_, exact, grad_y.to(DType::kF64));
      const ops::LinearGrads grads = ops::linear_backward(ctx_, args, on_gpu(grad_y));
      EXPECT_LE(norm_error(grads.x, expected.x), bound(dtype, s.out));
      EXPECT_LE(norm_error(grads.weight, expected.weight), bound(DType::kF32, s.tokens));
      EXPECT_LE(norm_error(grads.bias, expected.bias), bound(DType::kF32, s.tokens));
    }
  }
}

// In every way to divide the outputs: a tile a block, three, two in turns. The rows of the last case take so much
// shared memory that eight of them have a shorter ring of weights than one.
TEST_F(CudaLinear, RowsDoNotDependOnEachOther) {
  for (const auto& [in, out] : {std::pair{776, 96}, {776, 2400}, {776, 12000}, {6152, 48}}) {
    const Tensor x = on_gpu(random_tensor({8, in}, DType::kBF16, 1)),
                 w = on_gpu(random_tensor({out, in}, DType::kBF16, 2));
    const Tensor all = ops::linear_forward(ctx_, {x, w, {}, DType::kF32, {}});
    for (std::int64_t rows = 1; rows <= 8; ++rows) {
      const Tensor some = ops::linear_forward(ctx_, {x.slice(0, 0, rows), w, {}, DType::kF32, {}});
      EXPECT_TRUE(same_bits(some.to(kCpuDevice), all.slice(0, 0, rows).to(kCpuDevice))) << rows << " " << out;
    }
  }
}

TEST_F(CudaLinear, FewRowsGiveTheSameBitsTwice) {
  for (const std::int64_t rows : {9, 40, 64}) {
    const Tensor x = on_gpu(random_tensor({rows, 5120}, DType::kBF16, 1)),
                 w = on_gpu(random_tensor({2560, 5120}, DType::kBF16, 2));
    const ops::LinearArgs args{x, w, {}, DType::kF32, {}};
    const Tensor once = ops::linear_forward(ctx_, args), again = ops::linear_forward(ctx_, args);
    EXPECT_TRUE(same_bits(once.to(kCpuDevice), again.to(kCpuDevice))) << rows;
  }
}

TEST_F(CudaLinear, SameBitsTwice) {
  const Tensor x = on_gpu(random_tensor({512, 768}, DType::kBF16, 1)),
               g = on_gpu(random_tensor({512, 64}, DType::kBF16, 2));
  const Tensor w = on_gpu(random_tensor({64, 768}, DType::kF32, 3));
  const ops::LinearArgs args{x, w, {}, DType::kBF16, {}};
  const ops::LinearGrads a = ops::linear_backward(ctx_, args, g), b = ops::linear_backward(ctx_, args, g);
  EXPECT_TRUE(same_bits(a.weight.to(kCpuDevice), b.weight.to(kCpuDevice)));
  EXPECT_TRUE(same_bits(a.x.to(kCpuDevice), b.x.to(kCpuDevice)));
}

// More lengths than plans of the library are kept: those made again give the same bits.
TEST_F(CudaLinear, ManyLengths) {
  constexpr std::int64_t kLengths = 4500;
  const Tensor x = on_gpu(random_tensor({100 + kLengths, 24}, DType::kF32, 1)),
               w = on_gpu(random_tensor({40, 24}, DType::kF32, 2));
  const auto product_of = [&](std::int64_t rows) {
    return ops::linear_forward(ctx_, {x.slice(0, 0, rows), w, {}, DType::kF32, {}}).to(kCpuDevice);
  };
  const Tensor first = product_of(100);
  for (std::int64_t more = 1; more <= kLengths; ++more) product_of(100 + more);
  EXPECT_TRUE(same_bits(product_of(100), first));
  EXPECT_LE(norm_error(first, ops::linear_forward(ctx_, {x.slice(0, 0, 100).to(kCpuDevice).to(DType::kF64),
                                                         w.to(kCpuDevice).to(DType::kF64),
                                                         {},
                                                         DType::kF32,
                                                         {}})),
            bound(DType::kF32, 24));
}

TEST_F(CudaLinear, AddsToGradients) {
  const Tensor x = on_gpu(random_tensor({64, 24}, DType::kF32, 1)), g = on_gpu(random_tensor({64, 16}, DType::kF32, 2));
  const Tensor w = on_gpu(random_tensor({16, 24}, DType::kF32, 3)), into = Tensor::full({16, 24}, 2, DType::kF32, kGpu);
  const ops::LinearArgs args{x, w, {}, DType::kF32, {}};
  const Tensor once = ops::linear_backward(ctx_, args, g).weight;
  ops::linear_backward(ctx_, args, g, true, into);
  ops::add_inplace(ctx_, once, Tensor::full({16, 24}, 2, DType::kF32, kGpu));
  EXPECT_LE(max_error(into.to(kCpuDevice), once.to(kCpuDevice)), 64 * kUnitF32);
}

TEST_F(CudaLinear, RefusesTwoDevices) {
  EXPECT_EQ(refusal([&] {
              ops::linear_forward(ctx_, {on_gpu(random_tensor({2, 4}, DType::kF32, 1)),
                                         random_tensor({3, 4}, DType::kF32, 2),
                                         {},
                                         DType::kF32,
                                         {}});
            }),
            "[linear] device of weight: expected cuda:0, got cpu (move it with to(device))");
}

TEST_F(CudaLinear, RefusesF64) {
  const Tensor x = random_tensor({3, 4}, DType::kF64, 1).to(kGpu);
  EXPECT_EQ(
      refusal([&] {
        ops::linear_forward(ctx_, {x, x, {}, DType::kF32, {}});
      }),
      "[linear] dtype of x: expected f32, bf16 or f16 on a GPU, got f64 (f64 is computed on the cpu alone: convert "
      "it with to(dtype) or move it)");
}

}  // namespace
}  // namespace coluber::testing
