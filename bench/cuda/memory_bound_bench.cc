// cuda_memory_bound_bench [filter]: the kernels that only move memory, at the shapes of training a 130m and a 2.8b
// model, as shares of a device-to-device copy of as many bytes. Bytes are those that must be read or written once:
// inputs, outputs, and what is updated in place twice. Times are medians of rounds of launches over as many sets of
// tensors as exceed the L2 cache; kernel and copy rounds take turns. One JSON line a case follows each line for people.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "core/cuda.h"
#include "core/cuda/check.h"
#include "core/rng.h"
#include "kernels/causal_conv1d.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/loss.h"
#include "kernels/norm.h"
#include "kernels/optimizer.h"
#include "ops/op_check.h"

namespace coluber {
namespace {

using ops::view_of;
constexpr Device kGpu{DeviceType::kCuda, 0};
constexpr std::int64_t kBeyondCache = 256 << 20;
constexpr int kRounds = 7, kLaunches = 20;

// Normal numbers; a tile of 4M of them, over and over.
Tensor numbers(const Shape& shape, DType dtype) {
  static const Tensor tile = [] {
    const Tensor t = Tensor::empty({1 << 22}, DType::kF32);
    const Rng rng(1, 2);
    for (std::int64_t i = 0; i < t.numel(); ++i)
      t.data<float>()[i] = static_cast<float>(rng.normal(static_cast<std::uint64_t>(i)));
    return t;
  }();
  const Tensor from = tile.to(dtype).to(kGpu), to = Tensor::empty(shape, dtype, kGpu);
  for (std::int64_t done = 0; done < to.size_bytes(); done += from.size_bytes()) {
    cuda::copy_bytes(static_cast<std::byte*>(to.raw()) + done, kGpu, from.raw(), kGpu,
                     std::min(from.size_bytes(), to.size_bytes() - done));
  }
  return to;
}

Tensor empty(const Shape& shape, DType dtype) {
  return Tensor::empty(shape, dtype, kGpu);
}

class Bench {
 public:
  explicit Bench(const char* filter) : filter_(filter) {
    cuda::check(cudaEventCreate(&start_), "event");
    cuda::check(cudaEventCreate(&stop_), "event");
    const CudaDeviceInfo info = cuda_device_info(0);
    const std::int64_t half = std::int64_t{1} << 30;
    const Tensor from = empty({half}, DType::kU8), to = empty({half}, DType::kU8);
    auto copy = [&](int) { cuda::copy_bytes(to.raw(), kGpu, from.raw(), kGpu, half); };
    microseconds_of(copy, 1);
    std::printf("%s: copies of 1 GiB at %.0f GB/s, read and written\n", info.name.c_str(),
                2e-3 * static_cast<double>(half) / microseconds_of(copy, 1));
  }

  bool wants(const std::string& name) const { return name.find(filter_) != std::string::npos; }

  // `make` gives a launch over tensors of its own.
  void run(const std::string& name, std::int64_t bytes, const std::function<std::function<void()>()>& make) {
    if (!wants(name)) return;
    const auto sets = static_cast<int>(std::clamp<std::int64_t>(kBeyondCache / bytes + 1, 2, 64));
    std::vector<std::function<void()>> launches;
    std::vector<std::pair<Tensor, Tensor>> copies;
    const std::int64_t half = std::max<std::int64_t>(bytes / 2, 1);
    for (int i = 0; i < sets; ++i) {
      launches.push_back(make());
      copies.emplace_back(empty({half}, DType::kU8), empty({half}, DType::kU8));
    }
    auto launch = [&](int i) { launches[static_cast<std::size_t>(i)](); };
    auto copy = [&](int i) {
      const auto& [to, from] = copies[static_cast<std::size_t>(i)];
      cuda::copy_bytes(to.raw(), kGpu, from.raw(), kGpu, half);
    };
    std::vector<double> times, copy_times;
    for (int round = 0; round <= kRounds; ++round) {
      const double time = microseconds_of(launch, sets), copy_time = microseconds_of(copy, sets);
      if (round == 0) continue;  // warming up
      times.push_back(time);
      copy_times.push_back(copy_time);
    }
    print(name, bytes, median(times), median(copy_times));
  }

 private:
  static double median(std::vector<double> v) {
    std::nth_element(v.begin(), v.begin() + kRounds / 2, v.end());
    return v[kRounds / 2];
  }

  // Of one launch.
  template <class F>
  double microseconds_of(F&& f, int sets) {
    const cudaStream_t stream = cuda::handle_of(cuda::current_stream(0));
    cuda::synchronize(0);
    cuda::check(cudaEventRecord(start_, stream), "event");
    for (int i = 0; i < kLaunches; ++i) f(i % sets);
    cuda::check(cudaEventRecord(stop_, stream), "event");
    cuda::check(cudaEventSynchronize(stop_), "event");
    float ms = 0;
    cuda::check(cudaEventElapsedTime(&ms, start_, stop_), "event");
    return 1e3 * static_cast<double>(ms) / kLaunches;
  }

  static void print(const std::string& name, std::int64_t bytes, double us, double copy_us) {
    const double rate = static_cast<double>(bytes) * 1e-3 / us, copy_rate = static_cast<double>(bytes) * 1e-3 / copy_us;
    std::printf("  %-58s %8.1f MB %9.2f us %6.0f GB/s  copy %6.0f  %4.0f %%\n", name.c_str(),
                static_cast<double>(bytes) * 1e-6, us, rate, copy_rate, 100 * copy_us / us);
    std::printf("{\"case\": \"%s\", \"bytes\": %lld, \"us\": %.3f, \"copy_us\": %.3f}\n", name.c_str(),
                static_cast<long long>(bytes), us, copy_us);
    std::fflush(stdout);
  }

  const char* filter_;
  cudaEvent_t start_ = nullptr, stop_ = nullptr;
};

std::string shape_name(std::initializer_list<std::int64_t> extents) {
  return " " + Shape(extents).to_string();
}

template <class T>
std::string with_dtype(const std::string& name) {
  return name + " " + std::string(dtype_name(dtype_of<T>::value));
}

template <class T>
void bench_convolution(Bench& bench, std::int64_t b, std::int64_t l, std::int64_t d, std::int64_t k = 4) {
  constexpr DType kT = dtype_of<T>::value, kF = DType::kF32;
  auto params = [=](std::vector<Tensor>& keep) {
    keep = {numbers({b, l, 2 * d}, kT), numbers({d, k}, kF), numbers({d}, kF), empty({b, l, d}, kT)};
    CausalConv1dParams<T, float> p;
    p.d = d;
    p.k = k;
    p.silu = true;
    p.x = view_of<const T, 3>(keep[0].slice(2, 0, d));
    p.weight = view_of<const float, 2>(keep[1]);
    p.bias = keep[2].data<float>();
    p.y = view_of<T, 3>(keep[3]);
    p.num_sequences = b;
    return p;
  };
  const std::string shape = (k == 4 ? "" : " k" + std::to_string(k)) + shape_name({b, l, d});
  const std::int64_t bytes = b * l * d * static_cast<std::int64_t>(sizeof(T));
  if (l == 1) {
    bench.run(with_dtype<T>("conv step") + shape, 2 * bytes + b * d * (k - 1) * 8, [=] {
      std::vector<Tensor> keep;
      auto p = params(keep);
      keep.push_back(numbers({b, d, k - 1}, kF));
      p.state_in = view_of<const float, 3>(keep.back());
      p.state_out = view_of<float, 3>(keep.back());
      return [p, keep] { cuda::causal_conv1d_forward(cuda::current_stream(0), p); };
    });
    return;
  }
  bench.run(with_dtype<T>("conv forward") + shape, 2 * bytes, [=] {
    std::vector<Tensor> keep;
    auto p = params(keep);
    return [p, keep] { cuda::causal_conv1d_forward(cuda::current_stream(0), p); };
  });
  bench.run(with_dtype<T>("conv backward") + shape, 3 * bytes, [=] {
    std::vector<Tensor> keep;
    auto p = params(keep);
    const Tensor grad_y = numbers({b, l, d}, kT), weight = empty({d, k}, kF), bias = empty({d}, kF);
    CausalConv1dGradParams<T, float> g;
    g.grad_y = view_of<const T, 3>(grad_y);
    g.grad_x = view_of<T, 3>(keep[3]);
    g.grad_weight = view_of<float, 2>(weight);
    g.grad_bias = bias.data<float>();
    return [=] {
      cuda::causal_conv1d_backward(cuda::current_stream(0), p, g), (void)keep, (void)grad_y, (void)weight, (void)bias;
    };
  });
}

struct NormOptions {
  const char* name;
  NormKind kind;
  bool bias, sum, gate;
};

template <class X, class T>
void bench_norm(Bench& bench, const NormOptions& o, std::int64_t rows, std::int64_t m, bool backward) {
  constexpr DType kX = dtype_of<X>::value, kT = dtype_of<T>::value, kF = DType::kF32;
  const auto x_bytes = static_cast<std::int64_t>(sizeof(X)), t_bytes = static_cast<std::int64_t>(sizeof(T));
  std::int64_t each = x_bytes + t_bytes + (o.gate ? t_bytes : 0) + (o.sum ? 8 : 0);
  if (backward)
    each = 2 * x_bytes + t_bytes + (o.gate ? 2 * t_bytes : 0) + (o.sum ? 4 + (x_bytes != t_bytes ? t_bytes : 0) : 0);
  const std::string name = with_dtype<T>(with_dtype<X>(o.name)) + (backward ? " backward" : " forward");
  bench.run(name + shape_name({rows, m}), each * rows * m, [=] {
    std::vector<Tensor> keep = {numbers({rows, m}, kX), numbers({m}, kF), numbers({m}, kF)};
    auto more = [&](DType dtype) { return keep.emplace_back(numbers({rows, m}, dtype)); };
    NormParams<X, T, float> p;
    p.rows = rows;
    p.m = p.group = m;
    p.kind = o.kind;
    p.eps = 1e-5f;
    p.x = view_of<const X, 2>(keep[0]);
    p.weight = keep[1].data<float>();
    p.bias = o.bias ? keep[2].data<float>() : nullptr;
    if (o.gate) p.z = view_of<const T, 2>(more(kT));
    NormGradParams<X, T, float> g;
    if (!backward) {
      if (o.sum) p.residual = view_of<const float, 2>(more(kF));
      if (o.sum) p.residual_out = view_of<float, 2>(more(kF));
      p.y = view_of<T, 2>(more(kT));
      return std::function<void()>([p, keep] { cuda::norm_forward(cuda::current_stream(0), p); });
    }
    g.grad_y = view_of<const T, 2>(more(kT));
    g.grad_x = view_of<X, 2>(more(kX));
    if (o.sum) g.grad_residual_out = view_of<const float, 2>(more(kF));
    if (o.sum && kX != kT) g.grad_x_narrow = view_of<T, 2>(more(kT));
    if (o.gate) g.grad_z = view_of<T, 2>(more(kT));
    keep.push_back(empty({m}, kF));
    g.grad_weight = keep.back().data<float>();
    keep.push_back(empty({m}, kF));
    if (o.bias) g.grad_bias = keep.back().data<float>();
    return std::function<void()>([p, g, keep] { cuda::norm_backward(cuda::current_stream(0), p, g); });
  });
}

void bench_norms(Bench& bench, std::int64_t rows, std::int64_t m) {
  const NormOptions rms{"rms", NormKind::kRms, false, true, false}, layer{"layer", NormKind::kLayer, true, true, false};
  const NormOptions gated{"gated rms", NormKind::kRms, false, false, true};
  bench_norm<bfloat16, bfloat16>(bench, rms, rows, m, false);
  bench_norm<float, bfloat16>(bench, rms, rows, m, true);
  bench_norm<bfloat16, bfloat16>(bench, layer, rows, m, false);
  bench_norm<float, bfloat16>(bench, layer, rows, m, true);
  bench_norm<bfloat16, bfloat16>(bench, gated, rows, 2 * m, false);
  bench_norm<bfloat16, bfloat16>(bench, gated, rows, 2 * m, true);
  bench_norm<float, float>(bench, rms, rows, m, false);
  bench_norm<float, float>(bench, rms, rows, m, true);
}

template <class T>
void bench_elementwise(Bench& bench, std::int64_t n) {
  constexpr DType kT = dtype_of<T>::value;
  const std::int64_t bytes = n * static_cast<std::int64_t>(sizeof(T));
  const std::string shape = shape_name({n});
  bench.run(with_dtype<T>("add") + shape, 3 * bytes, [=] {
    const Tensor a = numbers({1, n}, kT), b = numbers({1, n}, kT);
    return [=] { cuda::add(cuda::current_stream(0), view_of<T, 2>(a), view_of<const T, 2>(b), 0.5f); };
  });
  bench.run(with_dtype<T>("scale") + shape, 2 * bytes, [=] {
    const Tensor a = numbers({1, n}, kT);
    return [=] { cuda::scale(cuda::current_stream(0), view_of<T, 2>(a), 1.01f); };
  });
  bench.run(with_dtype<T>("multiply") + shape, 3 * bytes, [=] {
    const Tensor a = numbers({n}, kT), b = numbers({n}, kT), y = empty({n}, kT);
    return [=] { cuda::multiply(cuda::current_stream(0), a.data<T>(), b.data<T>(), y.data<T>(), n); };
  });
  bench.run(with_dtype<T>("sum_of_squares") + shape, bytes, [=] {
    const Tensor a = numbers({n}, kT), sum = Tensor::zeros({1}, DType::kF64, kGpu);
    return [=] {
      const std::span<const T> all(a.data<T>(), static_cast<std::size_t>(n));
      cuda::sum_of_squares<T>(cuda::current_stream(0), std::span(&all, 1), sum.data<double>());
    };
  });
  bench.run(with_dtype<T>("dropout") + shape, 2 * bytes, [=] {
    const Tensor a = numbers({1, n}, kT), y = empty({1, n}, kT);
    return [=] {
      cuda::dropout(cuda::current_stream(0), DropoutParams<T>{view_of<const T, 2>(a), view_of<T, 2>(y), 0.1, 1, 2});
    };
  });
}

// Ids as words are: the r-th most frequent with a probability of 1 / r.
Tensor word_ids(std::int64_t tok, std::int64_t v) {
  const Tensor ids = Tensor::empty({tok}, DType::kI32);
  const Rng rng(3, 4);
  for (std::int64_t i = 0; i < tok; ++i) {
    const double r = std::exp(rng.uniform(static_cast<std::uint64_t>(i)) * std::log(static_cast<double>(v)));
    ids.data<std::int32_t>()[i] = static_cast<std::int32_t>(std::min<double>(r, static_cast<double>(v - 1)));
  }
  return ids;
}

void bench_embedding(Bench& bench, std::int64_t tok, std::int64_t v, std::int64_t m) {
  const Tensor ids = word_ids(tok, v);
  std::vector<std::int32_t> distinct(ids.data<std::int32_t>(), ids.data<std::int32_t>() + tok);
  std::sort(distinct.begin(), distinct.end());
  const std::int64_t rows = std::unique(distinct.begin(), distinct.end()) - distinct.begin();
  const Tensor there = ids.to(kGpu);
  bench.run("embedding bf16 forward" + shape_name({tok, v, m}), (tok + rows) * m * 2, [=] {
    const Tensor table = numbers({v, m}, DType::kBF16), y = empty({tok, m}, DType::kBF16);
    const EmbeddingParams<bfloat16> p{
        tok, m, there.data<std::int32_t>(), {table.raw(), DType::kBF16, m}, y.data<bfloat16>()};
    return [=] { cuda::embedding_forward(cuda::current_stream(0), p, v), (void)table, (void)y; };
  });
  bench.run("embedding bf16 backward" + shape_name({tok, v, m}), tok * m * 2 + rows * m * 8, [=] {
    const Tensor grad = numbers({tok, m}, DType::kBF16), table = numbers({v, m}, DType::kF32);
    const EmbeddingGradParams<bfloat16, float> p{
        tok, v, m, there.data<std::int32_t>(), view_of<const bfloat16, 2>(grad), view_of<float, 2>(table)};
    return [=] { cuda::embedding_backward(cuda::current_stream(0), p), (void)grad, (void)table; };
  });
}

template <class T>
void bench_loss(Bench& bench, std::int64_t rows, std::int64_t v) {
  const std::int64_t bytes = rows * v * static_cast<std::int64_t>(sizeof(T));
  const Tensor targets = word_ids(rows, v).to(kGpu);
  bench.run(with_dtype<T>("cross entropy and gradient") + shape_name({rows, v}), 2 * bytes, [=] {
    const Tensor logits = numbers({rows, v}, dtype_of<T>::value), loss = empty({rows}, DType::kF64);
    const CrossEntropyRowsParams<T> p{
        rows, v, logits.data<T>(), v, targets.data<std::int32_t>(), loss.data<double>(), logits.data<T>(), v, 1e-4};
    return [=] { cuda::cross_entropy_rows(cuda::current_stream(0), p), (void)logits, (void)loss; };
  });
}

void bench_adamw(Bench& bench, std::int64_t layers, std::int64_t m) {
  const std::int64_t d = 2 * m, u = m / 16;
  std::vector<std::int64_t> sizes = {50280 * m, m};
  for (std::int64_t i = 0; i < layers; ++i)
    for (std::int64_t n : {2 * d * m, d * 4, d, (u + 32) * d, d * u, d, d * 16, d, m * d, m}) sizes.push_back(n);
  std::int64_t total = 0;
  for (std::int64_t n : sizes) total += n;
  bench.run("adamw, " + std::to_string(sizes.size()) + " tensors" + shape_name({total}), 28 * total, [=] {
    const Tensor p = numbers({total}, DType::kF32), g = numbers({total}, DType::kF32);
    const Tensor a = Tensor::zeros({total}, DType::kF32, kGpu), s = Tensor::zeros({total}, DType::kF32, kGpu);
    std::vector<AdamWParams<float>> all;
    std::int64_t at = 0;
    for (std::int64_t n : sizes) {
      all.push_back({n, 1e-3, 0.9, 0.95, 1e-8, 0.1, 1, 3, p.data<float>() + at, g.data<float>() + at,
                     a.data<float>() + at, s.data<float>() + at});
      at += n;
    }
    return [=] {
      cuda::adamw_step(cuda::current_stream(0), all.data(), static_cast<std::int64_t>(all.size()));
      (void)p, (void)g, (void)a, (void)s;
    };
  });
}

void bench_all(Bench& bench) {
  bench_convolution<bfloat16>(bench, 8, 2048, 2048);
  bench_convolution<bfloat16>(bench, 8, 2048, 1536);
  bench_convolution<bfloat16>(bench, 4, 2048, 5120);
  bench_convolution<bfloat16>(bench, 1, 2048, 1536);
  bench_convolution<float>(bench, 8, 2048, 2048);
  for (std::int64_t k : {2, 3, 5, 8}) bench_convolution<bfloat16>(bench, 8, 2048, 2048, k);
  for (std::int64_t b : {1, 64}) {
    bench_convolution<bfloat16>(bench, b, 1, 1536);
    bench_convolution<bfloat16>(bench, b, 1, 5120);
  }
  bench_norms(bench, 8 * 2048, 768);
  bench_norms(bench, 4 * 2048, 2560);
  bench_norms(bench, 64, 2560);
  bench_elementwise<bfloat16>(bench, 8 * 2048 * 768);
  bench_elementwise<bfloat16>(bench, 4 * 2048 * 5120);
  bench_elementwise<float>(bench, 4 * 2048 * 2560);
  bench_embedding(bench, 8 * 2048, 50280, 768);
  bench_embedding(bench, 4 * 2048, 50280, 2560);
  bench_loss<bfloat16>(bench, 4096, 50280);
  bench_loss<bfloat16>(bench, 4096, 50277);
  bench_loss<float>(bench, 4096, 50280);
  bench_adamw(bench, 24, 768);
  bench_adamw(bench, 12, 2560);
}

}  // namespace
}  // namespace coluber

int main(int argc, char** argv) {
  if (coluber::cuda_device_count() == 0) {
    std::printf("no GPU: %s\n", coluber::cuda_unavailable_reason().c_str());
    return 0;
  }
  coluber::Bench bench(argc > 1 ? argv[1] : "");
  coluber::bench_all(bench);
  return 0;
}
