// memory_bound_bench [threads [repetitions]]: the ops that only move memory, as shares of a plain copy of as many bytes
// on as many threads. A copy runs before each repetition, so that noise hits both alike; the best of each counts.
// Bytes are those that must be read or written once: inputs, outputs and what is updated in place (twice).
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "coluber/ops.h"
#include "core/threads.h"

namespace coluber {
namespace {

Tensor numbers(const Shape& shape) {
  const Tensor t = Tensor::empty(shape, DType::kF32);
  for (std::int64_t i = 0; i < t.numel(); ++i) t.data<float>()[i] = static_cast<float>(i % 17 - 8) * 0.125f;
  return t;
}

double seconds_of(const std::function<void()>& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

class Bench {
 public:
  Bench(Context& ctx, int repetitions) : ctx_(ctx), repetitions_(repetitions) {}

  // `floats`: read plus written.
  void run(const std::string& name, std::int64_t floats, const std::function<void()>& f) {
    const std::int64_t half = floats / 2;
    const Tensor from = Tensor::full({half}, 1, DType::kF32), to = Tensor::full({half}, 0, DType::kF32);
    double best = 1e300, best_copy = 1e300;
    for (int i = 0; i < repetitions_; ++i) {
      best_copy = std::min(best_copy, seconds_of([&] { copy(to, from); }));
      best = std::min(best, seconds_of(f));
    }
    const double bytes = static_cast<double>(floats) * 4;
    std::printf("  %-46s %7.1f MB %6.1f GB/s  copy %6.1f GB/s  %5.0f %%\n", name.c_str(), bytes * 1e-6,
                bytes / best * 1e-9, bytes / best_copy * 1e-9, 100 * best_copy / best);
    std::fflush(stdout);
  }

 private:
  // Ordinary stores, as the kernels': a result is usually read next, so it should stay in cache.
  void copy(const Tensor& to, const Tensor& from) {
    constexpr std::int64_t kTask = 16384;
    const std::int64_t n = to.numel();
    ctx_.threads().run((n + kTask - 1) / kTask, [&](std::int64_t task) {
      float* __restrict out = to.data<float>() + task * kTask;
      const float* __restrict in = from.data<float>() + task * kTask;
      const std::int64_t count = std::min(kTask, n - task * kTask);
      for (std::int64_t i = 0; i < count; i += 16) {
        for (std::int64_t j = i; j < std::min(i + 16, count); ++j) out[j] = in[j];
        asm volatile("" ::: "memory");  // keeps the compiler from calling memcpy, which may bypass the cache
      }
    });
  }

  Context& ctx_;
  int repetitions_;
};

void bench_convolution(Context& ctx, Bench& bench, std::int64_t b, std::int64_t l, std::int64_t d) {
  const std::string shape = " (" + std::to_string(b) + "," + std::to_string(l) + "," + std::to_string(d) + ")";
  for (std::int64_t k : {2, 4, 8}) {
    ops::CausalConv1dArgs args;
    args.x = numbers({b, l, 2 * d}).slice(2, 0, d);
    args.weight = numbers({d, k});
    args.bias = numbers({d});
    args.silu = true;
    const Tensor grad_y = numbers({b, l, d});
    const std::string name = "conv k=" + std::to_string(k);
    bench.run(name + " forward" + shape, 2 * b * l * d, [&] { ops::causal_conv1d_forward(ctx, args); });
    bench.run(name + " backward" + shape, 3 * b * l * d, [&] { ops::causal_conv1d_backward(ctx, args, grad_y); });
  }
}

void bench_norm(Context& ctx, Bench& bench, std::int64_t rows, std::int64_t m) {
  const std::string shape = " (" + std::to_string(rows) + "," + std::to_string(m) + ")";
  const std::int64_t n = rows * m;
  ops::NormArgs args;
  args.x = numbers({rows, m});
  args.weight = numbers({m});
  const Tensor grad = numbers({rows, m}), other = numbers({rows, m});
  Tensor sum;
  bench.run("rms forward" + shape, 2 * n, [&] { ops::norm_forward(ctx, args); });
  bench.run("rms backward" + shape, 3 * n, [&] { ops::norm_backward(ctx, args, grad); });
  bench.run("rms backward, gradient of the sum" + shape, 4 * n, [&] { ops::norm_backward(ctx, args, grad, other); });
  args.residual = other;
  bench.run("rms forward, residual" + shape, 4 * n, [&] { ops::norm_forward(ctx, args, &sum); });
  args.residual = {};
  args.kind = NormKind::kLayer;
  args.bias = numbers({m});
  bench.run("layer forward" + shape, 2 * n, [&] { ops::norm_forward(ctx, args); });
  bench.run("layer backward" + shape, 3 * n, [&] { ops::norm_backward(ctx, args, grad); });
  args.z = other;
  args.kind = NormKind::kRms;
  args.bias = {};
  bench.run("rms gated forward" + shape, 3 * n, [&] { ops::norm_forward(ctx, args); });
  bench.run("rms gated backward" + shape, 5 * n, [&] { ops::norm_backward(ctx, args, grad); });
}

void bench_elementwise(Context& ctx, Bench& bench, std::int64_t n) {
  const std::string shape = " (" + std::to_string(n) + ")";
  const Tensor a = numbers({n}), b = numbers({n}), c = numbers({n}), d = numbers({n});
  bench.run("add_inplace" + shape, 3 * n, [&] { ops::add_inplace(ctx, a, b, 0.5); });
  bench.run("scale_inplace" + shape, 2 * n, [&] { ops::scale_inplace(ctx, a, 1.0001); });
  bench.run("sum_of_squares" + shape, n, [&] { ops::sum_of_squares(ctx, a); });
  bench.run("dropout" + shape, 2 * n, [&] { ops::dropout(ctx, a, 0.1, 1, 2); });
  c.fill(0);
  d.fill(0);
  bench.run("adamw" + shape, 7 * n, [&] { ops::adamw_step(ctx, {}, a, b, c, d); });
}

void bench_embedding(Context& ctx, Bench& bench, std::int64_t tok, std::int64_t v, std::int64_t m) {
  const std::string shape = " (" + std::to_string(tok) + "," + std::to_string(v) + "," + std::to_string(m) + ")";
  const Tensor ids = Tensor::empty({tok}, DType::kI32), table = numbers({v, m}), grad = numbers({tok, m});
  for (std::int64_t i = 0; i < tok; ++i)
    ids.data<std::int32_t>()[i] = static_cast<std::int32_t>(i * 2654435761 % 4294967296 * v / 4294967296);
  const std::int64_t rows = std::min(tok, v);  // of the table that are touched, at most
  bench.run("embedding forward" + shape, (tok + rows) * m, [&] { ops::embedding_forward(ctx, ids, table); });
  bench.run("embedding backward" + shape, (tok + 2 * rows) * m,
            [&] { ops::embedding_backward(ctx, ids, grad, table); });
}

}  // namespace
}  // namespace coluber

int main(int argc, char** argv) {
  using namespace coluber;
  Context ctx(ContextOptions{argc > 1 ? std::atoi(argv[1]) : 0, Algorithm::kAuto});
  std::printf("%d threads, %s\n", ctx.num_threads(), std::string(cpu_isa()).c_str());
  Bench bench(ctx, argc > 2 ? std::atoi(argv[2]) : 15);
  for (const std::int64_t scale : {1, 6}) {  // in the last-level cache of most machines, and beyond it
    bench_convolution(ctx, bench, 8, 256 * scale, 512);
    bench_convolution(ctx, bench, 1, 256 * scale, 3072);
    bench_norm(ctx, bench, 2048 * scale, 512);
    bench_norm(ctx, bench, 512 * scale, 2560);
    bench_elementwise(ctx, bench, (1 << 20) * scale);
    bench_embedding(ctx, bench, 4096 * scale, 256, 256);
    bench_embedding(ctx, bench, 2048 * scale, 50280, 768);
  }
}
