// AdamW on a GPU.
#include "kernels/optimizer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/reference/optimizer.h"
#include "tests/cuda/kernel_test.h"

namespace coluber::testing {
namespace {

class OptimizerCuda : public CudaKernel {};

TEST_F(OptimizerCuda, AdamWOfManyTensors) {
  std::vector<Numbers> params, grads, averages, squares;
  std::vector<AdamWParams<float>> here;
  const std::int64_t sizes[] = {1, 3, 4096, 4097, 12289, 0, 100};
  for (int i = 0; i < 200; ++i) {
    const std::int64_t n = sizes[i % 7];
    const auto seed = static_cast<std::uint64_t>(4 * i);
    params.push_back(random_numbers({n}, DType::kF32, seed));
    grads.push_back(random_numbers({n}, DType::kF32, seed + 1));
    averages.push_back(random_numbers({n}, DType::kF32, seed + 2, 0.1));
    squares.push_back(numbers_of(absolute(random_tensor({n}, DType::kF64, seed + 3, 0.01)), DType::kF32));
    AdamWParams<float> p{n, 1e-3, 0.9, 0.95, 1e-8, i % 2 == 0 ? 0.1 : 0.0, 0.5, 7};
    p.param = params.back().device.data<float>();
    p.grad = grads.back().device.data<float>();
    p.exp_avg = averages.back().device.data<float>();
    p.exp_avg_sq = squares.back().device.data<float>();
    here.push_back(p);
  }
  cuda::adamw_step(stream(), here.data(), static_cast<std::int64_t>(here.size()));
  for (std::size_t i = 0; i < here.size(); ++i) {
    AdamWParams<double> p{here[i].n, 1e-3, 0.9, 0.95, 1e-8, here[i].weight_decay, 0.5, 7};
    p.param = params[i].exact.data<double>();
    p.grad = grads[i].exact.data<double>();
    p.exp_avg = averages[i].exact.data<double>();
    p.exp_avg_sq = squares[i].exact.data<double>();
    const Tensor size = absolute(averages[i].exact), param_size = absolute(params[i].exact);
    for (std::int64_t k = 0; k < p.n; ++k) size.data<double>()[k] += std::abs(p.grad[k]);
    reference::adamw_step(p);
    expect_close("exp_avg", averages[i].device, averages[i].exact, size, 4);
    expect_close("exp_avg_sq", squares[i].device, squares[i].exact, absolute(squares[i].exact), 4);
    for (std::int64_t k = 0; k < p.n; ++k)  // the step, with an average that is good to 4 roundings of its terms
      param_size.data<double>()[k] +=
          1e-3 / p.bias_correction1() * size.data<double>()[k] / std::sqrt(p.exp_avg_sq[k] / p.bias_correction2());
    expect_close("param", params[i].device, params[i].exact, param_size, 12);
  }
}

// Scalars made on the device are the host's to the bit. What is not finite leaves out its update and those after it,
// until the scalars are zeros again.
TEST_F(OptimizerCuda, AdamWByScalarsOfTheDevice) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const Tensor grad = random_tensor({5000}, DType::kF32, 3).to(kGpu), start = random_tensor({5000}, DType::kF32, 1);
  const Tensor scalars = Tensor::zeros({sizeof(cuda::AdamWScalars)}, DType::kU8, kGpu);
  auto* at = static_cast<cuda::AdamWScalars*>(scalars.raw());
  // Parameters after one update from `start`; by the host where `by_host`.
  auto updated = [&](bool by_host, double clip, double squares, double loss) {
    const Tensor param = start.to(kGpu), average = Tensor::zeros({5000}, DType::kF32, kGpu),
                 norm = Tensor::zeros({1}, DType::kF64, kGpu);
    const Tensor square = Tensor::zeros({5000}, DType::kF32, kGpu), in = Tensor::zeros({7}, DType::kF64, kGpu);
    AdamWParams<float> p{5000, 2e-3, 0.9, 0.95, 1e-8, 0.1, 1, 3};
    p.grad_scale = clip > 0 ? std::min(1.0, clip / (std::sqrt(squares) + 1e-6)) : 1;
    const double numbers[] = {p.lr, p.bias_correction1(), p.bias_correction2(), 1, squares, 1.5, loss};
    for (std::int64_t i = 0; i < 7; ++i) in.set({i}, numbers[i]);
    p.param = param.data<float>();
    p.grad = grad.data<float>();
    p.exp_avg = average.data<float>();
    p.exp_avg_sq = square.data<float>();
    const double* x = in.data<double>();
    if (!by_host) {
      cuda::adamw_scalars(stream(), {x, x + 1, x + 2, x + 3, x + 4, x + 5, 2, clip}, norm.data<double>(), at);
      EXPECT_EQ(norm.at({0}), std::sqrt(squares));
      p.lr = p.grad_scale = -1;  // not looked at
      p.step = 99;
    }
    cuda::adamw_step(stream(), &p, 1, by_host ? nullptr : at);
    return param.to(kCpuDevice);
  };
  for (const auto& [clip, squares] : {std::pair{0.5, 1.7}, {3.0, 1.7}, {0.0, 1.7}})
    EXPECT_TRUE(same_bits(updated(false, clip, squares, 2), updated(true, clip, squares, 2))) << clip;
  for (const auto& [squares, loss] : {std::pair{kInfinity, 2.0}, {1.7, std::nan("")}, {1.7, -kInfinity}}) {
    EXPECT_TRUE(same_bits(updated(false, 1, squares, loss), start)) << squares << " " << loss;
    EXPECT_TRUE(same_bits(updated(false, 1, 1.7, 2), start)) << "after " << squares << " " << loss;
    scalars.fill(0);
    EXPECT_FALSE(same_bits(updated(false, 1, 1.7, 2), start));
  }
}

}  // namespace
}  // namespace coluber::testing
