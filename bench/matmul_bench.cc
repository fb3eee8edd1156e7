// matmul_bench [threads [part]]: products of training and of decoding, as shares of this machine's matrix rate and of
// its read bandwidth, both measured in the same run. Best of several repetitions; interleaved, so that noise hits all
// alike.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "coluber/ops.h"
#include "core/threads.h"
#include "kernels/machine.h"
#include "kernels/matmul.h"

namespace coluber {
namespace {

Tensor numbers(const Shape& shape, DType dtype) {
  const Tensor t = Tensor::empty(shape, DType::kF32);
  for (std::int64_t i = 0; i < t.numel(); ++i) t.data<float>()[i] = static_cast<float>(i % 17 - 8) * 0.125f;
  return t.to(dtype);
}

double seconds_of(auto&& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct Product {
  std::string name;
  double flop = 0, best = 1e300;
};

struct LayerShape {
  std::int64_t out, in;
};

// Forward and both gradients of the layers of `train --preset tiny`: 4096 tokens a step.
void bench_training(Context& ctx, DType compute, double rate) {
  constexpr std::int64_t kTokens = 4096;
  constexpr int kRepetitions = 12;
  const std::vector<LayerShape> layers = {{1024, 256}, {48, 512}, {512, 16}, {256, 512}, {256, 256}};
  std::vector<Product> products;
  for (const auto& [out, in] : layers) {
    const ops::LinearArgs args{numbers({kTokens, in}, DType::kF32), numbers({out, in}, DType::kF32), {}, compute};
    const Tensor grad_y = numbers({kTokens, out}, DType::kF32);
    const Tensor grad_weight = Tensor::zeros({out, in}, DType::kF32);
    const std::string shape = "(" + std::to_string(out) + "," + std::to_string(in) + ")";
    const double flop = 2.0 * kTokens * static_cast<double>(out * in);
    Product forward{"forward  " + shape, flop}, both{"backward " + shape, 2 * flop};
    for (int i = 0; i < kRepetitions; ++i) {
      forward.best = std::min(forward.best, seconds_of([&] { ops::linear_forward(ctx, args); }));
      both.best =
          std::min(both.best, seconds_of([&] { ops::linear_backward(ctx, args, grad_y, true, grad_weight, {}); }));
    }
    products.push_back(forward);
    products.push_back(both);
  }
  Product sum{"all", 0, 0};
  for (const Product& p : products) {
    std::printf("  %-24s %6.1f GFLOP/s %5.1f %%\n", p.name.c_str(), p.flop / p.best * 1e-9,
                100 * p.flop / p.best / rate);
    sum.flop += p.flop;
    sum.best += p.best;
  }
  std::printf("  %-24s %6.1f GFLOP/s %5.1f %%\n", "all", sum.flop / sum.best * 1e-9, 100 * sum.flop / sum.best / rate);
}

// One to eight tokens through layers whose weights together exceed every cache.
void bench_decoding(Context& ctx, DType dtype, std::int64_t out, std::int64_t in) {
  constexpr std::int64_t kBytes = 220 << 20;
  constexpr int kRepetitions = 9;
  const std::int64_t bytes = out * in * dtype_size(dtype);
  std::vector<Tensor> weights;
  for (std::int64_t total = 0; total < kBytes; total += bytes) weights.push_back(numbers({out, in}, dtype));
  std::printf("  %-5s (%ld,%ld)", std::string(dtype_name(dtype)).c_str(), static_cast<long>(out),
              static_cast<long>(in));
  for (std::int64_t m : {1, 2, 4, 8}) {
    const Tensor x = numbers({m, in}, DType::kF32);
    const double total = static_cast<double>(bytes) * static_cast<double>(weights.size());
    std::vector<double> shares;  // each beside a bandwidth taken a moment before, since other machines share the memory
    double best = 1e300;
    for (int i = 0; i < kRepetitions; ++i) {
      const double bandwidth = measure_read_bandwidth(ctx.threads(), 1);
      const double seconds = seconds_of([&] {
        for (const Tensor& weight : weights) ops::linear_forward(ctx, {x, weight, {}});
      });
      shares.push_back(total / seconds / bandwidth);
      best = std::min(best, seconds);
    }
    std::sort(shares.begin(), shares.end());
    std::printf("  m=%ld %5.1f GB/s %5.1f %%", static_cast<long>(m), total / best * 1e-9,
                100 * shares[shares.size() / 2]);
  }
  std::printf("\n");
}

void bench_prompt(Context& ctx, DType compute, DType dtype, double rate) {
  std::printf("  %s weights:", std::string(dtype_name(dtype)).c_str());
  const Tensor weight = numbers({3072, 768}, dtype);
  for (std::int64_t m : {16, 64, 137, 512, 2048}) {
    const Tensor x = numbers({m, 768}, DType::kF32);
    double best = 1e300;
    for (int i = 0; i < 12; ++i)
      best = std::min(best, seconds_of([&] { ops::linear_forward(ctx, {x, weight, {}, compute}); }));
    const double flops = 2.0 * static_cast<double>(m) * 3072 * 768 / best;
    std::printf("  m=%ld %.1f (%.0f %%)", static_cast<long>(m), flops * 1e-9, 100 * flops / rate);
  }
  std::printf("\n");
}

void bench_loss(Context& ctx, std::int64_t tokens, std::int64_t m, std::int64_t v, double rate) {
  const Tensor targets = Tensor::zeros({tokens}, DType::kI32);
  const ops::LinearCrossEntropyArgs args{numbers({tokens, m}, DType::kF32), numbers({v, m}, DType::kF32), {}, targets};
  double best = 1e300;
  for (int i = 0; i < 5; ++i) best = std::min(best, seconds_of([&] { ops::linear_cross_entropy(ctx, args, true); }));
  const double flop = 6.0 * static_cast<double>(tokens * m) * static_cast<double>(v);
  std::printf("  %ld tokens, d_model %ld, vocabulary %ld: %.1f ms, %.1f GFLOP/s %.1f %%\n", static_cast<long>(tokens),
              static_cast<long>(m), static_cast<long>(v), best * 1e3, flop / best * 1e-9, 100 * flop / best / rate);
}

}  // namespace
}  // namespace coluber

int main(int argc, char** argv) {
  using namespace coluber;
  Context ctx({argc > 1 ? std::atoi(argv[1]) : 0});
  const std::string part = argc > 2 ? argv[2] : "all";  // training, loss, prompt, decoding
  auto wanted = [&](const char* name) { return part == "all" || part == name; };
  const MachineRates machine = measure_machine(ctx.threads(), 10);
  std::printf("%d threads, %s, %s: read %.1f GB/s, f32 %.1f GFLOP/s, bf16 %.1f GFLOP/s\n", ctx.num_threads(),
              std::string(cpu_isa()).c_str(), std::string(cpu::matrix_library()).c_str(),
              machine.read_bytes_per_s * 1e-9, machine.f32_flop_per_s * 1e-9, machine.bf16_flop_per_s * 1e-9);
  const double bf16_rate = machine.bf16_flop_per_s > 0 ? machine.bf16_flop_per_s : machine.f32_flop_per_s;
  if (wanted("training")) {
    std::printf("training, f32, 4096 tokens\n");
    bench_training(ctx, DType::kF32, machine.f32_flop_per_s);
    std::printf("training, bf16\n");
    bench_training(ctx, DType::kBF16, bf16_rate);
  }
  if (wanted("loss")) {
    std::printf("head and loss with gradients, f32\n");
    bench_loss(ctx, 4096, 256, 256, machine.f32_flop_per_s);
    bench_loss(ctx, 256, 768, 50280, machine.f32_flop_per_s);
  }
  if (wanted("prompt")) {
    std::printf("prompt, (3072,768), f32 then bf16\n");
    for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16})
      bench_prompt(ctx, DType::kF32, dtype, machine.f32_flop_per_s);
    for (DType dtype : {DType::kF32, DType::kBF16}) bench_prompt(ctx, DType::kBF16, dtype, bf16_rate);
  }
  if (!wanted("decoding")) return 0;
  std::printf("decoding, share of read bandwidth\n");
  for (const auto& [out, in] : {LayerShape{3072, 768}, {1536, 768}, {768, 1536}, {50280, 768}, {5120, 2560}})
    bench_decoding(ctx, DType::kBF16, out, in);
  bench_decoding(ctx, DType::kF16, 3072, 768);
  bench_decoding(ctx, DType::kF32, 3072, 768);
  return 0;
}
