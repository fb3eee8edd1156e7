// Tensors without elements on a GPU: what the CPU gives, and no kernel of no blocks.
#include <cmath>
#include <vector>

#include "coluber/model.h"
#include "coluber/ops.h"
#include "tests/cuda/cuda.h"
#include "tests/support/models.h"

namespace coluber::testing {
namespace {

class CudaEmpty : public CudaTest {};

void expect_same(const char* what, const Tensor& got, const Tensor& expected) {
  ASSERT_EQ(got.defined(), expected.defined()) << what;
  if (!expected.defined()) return;
  EXPECT_LE(norm_error(got, expected), kUnitF32) << what;
}

ops::SelectiveScanArgs scan_args(std::int64_t b, std::int64_t l, std::int64_t d, std::int64_t n, Device device) {
  const auto random = [&](const Shape& shape, std::uint64_t seed) {
    return random_tensor(shape, DType::kF32, seed).to(device);
  };
  ops::SelectiveScanArgs args;
  args.u = random({b, l, d}, 1);
  args.dt = random({b, l, d}, 2);
  args.z = random({b, l, d}, 3);
  const Tensor A = random_tensor({d, n}, DType::kF32, 4);
  for (std::int64_t i = 0; i < A.numel(); ++i) A.data<float>()[i] = -0.1f - std::abs(A.data<float>()[i]);  // a decay
  args.A = A.to(device);
  args.B = random({b, l, n}, 5);
  args.C = random({b, l, n}, 6);
  args.D = random({d}, 7);
  args.dt_bias = random({d}, 8);
  args.state_in = random({b, d, n}, 9);
  args.dt_softplus = true;
  return args;
}

// y, the last state, and all gradients for gradients y and state of these.
std::vector<Tensor> forward_and_backward(Context& ctx, const ops::SelectiveScanArgs& args) {
  ops::SelectiveScanSaved saved;
  Tensor state;
  const Tensor y = ops::selective_scan_forward(ctx, args, &state, &saved);
  const ops::SelectiveScanGrads g = ops::selective_scan_backward(ctx, args, saved, y, state);
  return {y, state, g.u, g.dt, g.A, g.B, g.C, g.D, g.z, g.dt_bias, g.state_in};
}

// Packed rows, some of whose sequences have no tokens: their states and gradients pass through.
TEST_F(CudaEmpty, SequencesOfARow) {
  for (const std::int64_t n : {4, 16}) {
    std::vector<Tensor> results[2];
    for (const Device device : {kCpuDevice, kGpu}) {
      ops::SelectiveScanArgs args = scan_args(1, 40, 32, n, device);
      args.cu_seqlens = Tensor::of<std::int32_t>({6}, {0, 0, 5, 5, 40, 40});
      args.state_in = random_tensor({5, 32, n}, DType::kF32, 9).to(device);
      results[device.is_cpu() ? 0 : 1] = forward_and_backward(ctx_, args);
    }
    for (std::size_t i = 0; i < results[0].size(); ++i) {
      EXPECT_LE(norm_error(results[1][i], results[0][i]), 2e-5) << "n " << n << " result " << i;
    }
  }
}

// Both kernels (16 states and any), each extent 0 in turn; without tokens a state and its gradient pass through.
TEST_F(CudaEmpty, SelectiveScan) {
  for (const std::int64_t n : {4, 16}) {
    for (const Shape& extents : {Shape{0, 5, 32}, Shape{2, 0, 32}, Shape{2, 5, 0}, Shape{0, 1, 32}, Shape{0, 0, 0}}) {
      std::vector<Tensor> results[2];
      for (const Device device : {kCpuDevice, kGpu}) {
        const ops::SelectiveScanArgs args = scan_args(extents[0], extents[1], extents[2], n, device);
        results[device.is_cpu() ? 0 : 1] = forward_and_backward(ctx_, args);
      }
      for (std::size_t i = 0; i < results[0].size(); ++i) {
        SCOPED_TRACE(extents.to_string() + " n " + std::to_string(n) + " result " + std::to_string(i));
        expect_same("selective_scan", results[1][i], results[0][i]);
      }
    }
  }
}

TEST_F(CudaEmpty, Fills) {
  EXPECT_EQ(Tensor::full({3, 0}, 2, DType::kBF16, kGpu).numel(), 0);
  const Tensor zeros = Tensor::zeros({3, 4}, DType::kF32, kGpu);
  zeros.slice(1, 2, 2).fill(1);
  zeros.slice(0, 1, 1).fill(1);
  EXPECT_TRUE(same_bits(zeros.to(kCpuDevice), Tensor::zeros({3, 4}, DType::kF32)));
}

// No sequences, and sequences of no tokens, through every op of a model.
TEST_F(CudaEmpty, Models) {
  ModelConfig config;
  config.d_model = 64;
  config.n_layer = 2;
  config.vocab_size = 101;
  const Model cpu = Model::create(config, 7);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Model gpu = cpu.to(kGpu).to(dtype);
    for (const Shape& extents : {Shape{0, 5}, Shape{2, 0}, Shape{0, 1}}) {
      SCOPED_TRACE(extents.to_string());
      const Tensor ids = Tensor::zeros(extents, DType::kI32);
      State state = gpu.make_state(extents[0]);
      ForwardOptions options;
      options.state = &state;
      EXPECT_EQ(gpu.forward(ctx_, ids, options).shape(), cpu.forward(ctx_, ids).shape());
      EXPECT_EQ(gpu.evaluate(ctx_, ids, ids).num_tokens, 0);
    }
    State none = gpu.make_state(0);
    EXPECT_EQ(gpu.step(ctx_, Tensor::zeros({0}, DType::kI32), none).size(0), 0);
  }
}

}  // namespace
}  // namespace coluber::testing
