// selective_scan_bench [--threads N] [--json] [part]: forward, backward and step of the selective scan.
//
//   scan      published shapes: against the plain loops in float, and against a floor
//   length    time per token from 2^10 to 2^20 tokens
//   step      one token, batches of 1 to 64
//
// Floor: the operations that a call cannot do without (ops/work.h; an exponential takes 6 multiply-adds) at the f32
// matrix rate measured in this run. Best of several repetitions; kernels and loops take turns, so that noise hits both.
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "coluber/ops.h"
#include "core/rng.h"
#include "core/threads.h"
#include "kernels/machine.h"
#include "ops/work.h"

namespace coluber {
namespace {

struct Shape4 {
  std::int64_t b, l, d, n;
  double states() const { return static_cast<double>(b * l * d * n); }
};

struct Options {
  int threads = 0;
  bool json = false;
  std::string part;
};

Tensor numbers(const Shape& shape, std::uint64_t seed, double mean = 0, double scale = 1) {
  const Tensor t = Tensor::empty(shape, DType::kF32);
  const Rng rng(seed, 0);
  for (std::int64_t i = 0; i < t.numel(); ++i)
    t.data<float>()[i] = static_cast<float>(mean + scale * (rng.uniform(static_cast<std::uint64_t>(i)) - 0.5) * 3.46);
  return t;
}

// z, softplus, D, dt_bias, variable B and C; A = -(1..n) as models begin.
ops::SelectiveScanArgs make_args(const Shape4& s) {
  ops::SelectiveScanArgs args;
  args.u = numbers({s.b, s.l, s.d}, 1);
  args.dt = numbers({s.b, s.l, s.d}, 2);
  args.A = Tensor::empty({s.d, s.n}, DType::kF32);
  for (std::int64_t i = 0; i < args.A.numel(); ++i) args.A.data<float>()[i] = -static_cast<float>(i % s.n + 1);
  args.B = numbers({s.b, s.l, s.n}, 3);
  args.C = numbers({s.b, s.l, s.n}, 4);
  args.D = numbers({s.d}, 5);
  args.z = numbers({s.b, s.l, s.d}, 6);
  args.dt_bias = numbers({s.d}, 7, -4);
  args.dt_softplus = true;
  return args;
}

double seconds_of(auto&& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct Timing {
  double forward = 1e300, backward = 1e300;
  void measure(Context& ctx, const ops::SelectiveScanArgs& args, const Tensor& grad_y, bool with_backward = true) {
    ops::SelectiveScanSaved saved;
    Tensor y;
    forward = std::min(forward, seconds_of([&] { y = ops::selective_scan_forward(ctx, args, nullptr, &saved); }));
    if (!with_backward) return;
    ops::SelectiveScanGrads grads;
    backward = std::min(backward, seconds_of([&] { grads = ops::selective_scan_backward(ctx, args, saved, grad_y); }));
  }
};

void report(const Options& o, const std::string& what, const Shape4& s, double seconds, double loops, const Work& work,
            const MachineRates& rates) {
  const double floor = floor_of(work, rates, DType::kF32).seconds;
  if (o.json) {
    std::printf(
        "{\"bench\":\"selective_scan\",\"what\":\"%s\",\"b\":%ld,\"l\":%ld,\"d\":%ld,\"n\":%ld,\"threads\":%d,"
        "\"ms\":%.4f,\"ns_per_state\":%.5f,\"reference_ms\":%.3f,\"ratio_to_reference\":%.2f,\"floor_ms\":%.4f,"
        "\"floor_share\":%.3f}\n",
        what.c_str(), static_cast<long>(s.b), static_cast<long>(s.l), static_cast<long>(s.d), static_cast<long>(s.n),
        o.threads, seconds * 1e3, seconds / s.states() * 1e9, loops * 1e3, loops / seconds, floor * 1e3,
        floor / seconds);
    return;
  }
  char reference[64] = "";
  if (loops > 0) std::snprintf(reference, sizeof reference, "  loops %8.1f ms = %5.1f x", loops * 1e3, loops / seconds);
  std::printf("  %-22s %8.3f ms  %6.4f ns a state  floor %8.3f ms = %4.1f %%%s\n", what.c_str(), seconds * 1e3,
              seconds / s.states() * 1e9, floor * 1e3, 100 * floor / seconds, reference);
}

void bench_shape(Context& fast, Context& loops, const Options& o, const char* name, const Shape4& s,
                 const ops::SelectiveScanArgs& args, const MachineRates& rates, int repetitions, int loop_repetitions) {
  const Tensor grad_y = numbers({s.b, s.l, s.d}, 8);
  Timing kernel, reference;
  kernel.measure(fast, args, grad_y);  // pages are touched
  for (int i = 0; i < repetitions; ++i) {
    kernel.measure(fast, args, grad_y);
    if (i < loop_repetitions) reference.measure(loops, args, grad_y);
  }
  const bool compared = loop_repetitions > 0;
  report(o, std::string("forward ") + name, s, kernel.forward, compared ? reference.forward : 0,
         ops::selective_scan_forward_work(args), rates);
  report(o, std::string("backward ") + name, s, kernel.backward, compared ? reference.backward : 0,
         ops::selective_scan_backward_work(args, {}), rates);
}

void bench_scan(Context& fast, Context& loops, const Options& o, const MachineRates& rates) {
  const Shape4 base{1, 2048, 1536, 16}, small{1, 1024, 256, 16};
  bench_shape(fast, loops, o, "130m", base, make_args(base), rates, 12, 3);
  const Shape4 tiny{8, 512, 512, 16};
  bench_shape(fast, loops, o, "tiny, batch 8", tiny, make_args(tiny), rates, 20, 0);
  for (std::int64_t n : {1, 4, 12, 64, 256}) {
    const Shape4 s{1, 16 * 1024 / std::max<std::int64_t>(n, 16), 768, n};
    bench_shape(fast, loops, o, ("n " + std::to_string(n)).c_str(), s, make_args(s), rates, 12, 0);
  }
  ops::SelectiveScanArgs args = make_args(small);
  bench_shape(fast, loops, o, "d 256", small, args, rates, 20, 1);
  args.B = numbers({small.d, small.n}, 9);
  args.C = numbers({small.d, small.n}, 10);
  bench_shape(fast, loops, o, "constant", small, args, rates, 20, 1);
  args.B = numbers({1, small.l, 32, small.n}, 9);
  args.C = numbers({1, small.l, 32, small.n}, 10);
  bench_shape(fast, loops, o, "32 groups", small, args, rates, 20, 1);
  const Shape4 complex{1, 1024, 256, 8};
  args = make_args(complex);
  args.A = Tensor::empty({complex.d, complex.n, 2}, DType::kF32);
  for (std::int64_t i = 0; i < args.A.numel(); ++i)
    args.A.data<float>()[i] = i % 2 == 0 ? -0.5f : 3.14f * static_cast<float>(i / 2 % complex.n);
  args.B = numbers({1, complex.l, complex.n, 2}, 9);
  args.C = numbers({1, complex.l, complex.n, 2}, 10);
  bench_shape(fast, loops, o, "complex", complex, args, rates, 20, 1);
}

// Lengths take turns, all as the first tokens of one input, so that a machine whose speed drifts is the same to each.
void bench_length(Context& fast, const Options& o, const MachineRates& rates) {
  constexpr int kFirst = 10, kLast = 20, kRounds = 8;
  const ops::SelectiveScanArgs whole = make_args({1, std::int64_t{1} << kLast, 128, 16});
  std::array<Timing, kLast + 1> timings;
  for (int round = 0; round < kRounds; ++round) {
    for (int power = kFirst; power <= kLast; ++power) {
      const std::int64_t l = std::int64_t{1} << power;
      ops::SelectiveScanArgs args = whole;
      for (Tensor* x : {&args.u, &args.dt, &args.B, &args.C, &args.z}) *x = x->slice(1, 0, l);
      const std::int64_t repetitions = std::max<std::int64_t>(1, (std::int64_t{1} << 14) / l);
      for (std::int64_t i = 0; i < repetitions; ++i)
        timings[static_cast<std::size_t>(power)].measure(fast, args, {}, false);
    }
  }
  double least = 1e300, most = 0;
  for (int power = kFirst; power <= kLast; ++power) {
    const Shape4 s{1, std::int64_t{1} << power, 128, 16};
    const double seconds = timings[static_cast<std::size_t>(power)].forward;
    least = std::min(least, seconds / static_cast<double>(s.l));
    most = std::max(most, seconds / static_cast<double>(s.l));
    report(o, "forward 2^" + std::to_string(power), s, seconds, 0,
           (1.0 / static_cast<double>(whole.u.size(1) / s.l)) * ops::selective_scan_forward_work(whole), rates);
  }
  if (!o.json) std::printf("  time per token: slowest over fastest length %.3f\n", most / least);
}

void bench_step(Context& fast, const Options& o, const MachineRates& rates) {
  for (const std::int64_t d : {1536, 4096}) {
    for (const std::int64_t b : {1, 8, 64}) {
      const Shape4 s{b, 1, d, 16};
      const ops::SelectiveScanArgs args = make_args(s);
      const Tensor state = Tensor::zeros({b, d, 16}, DType::kF32);
      double best = 1e300;
      for (int i = 0; i < 300; ++i)
        best = std::min(best, seconds_of([&] { ops::selective_scan_step(fast, args, state); }));
      report(o, "step d " + std::to_string(d) + ", batch " + std::to_string(b), s, best, 0,
             ops::selective_scan_step_work(args, state), rates);
    }
  }
}

int run(const Options& options) {
  Options o = options;
  Context fast(ContextOptions{o.threads, Algorithm::kAuto}), loops(ContextOptions{1, Algorithm::kReference});
  o.threads = fast.num_threads();
  MachineRates rates;
  rates.f32_flop_per_s = measure_f32_rate(fast.threads());
  if (!o.json) {
    std::printf("selective_scan: %s, %d threads, %.1f GFLOP/s f32 measured\n", std::string(cpu_isa()).c_str(),
                o.threads, rates.f32_flop_per_s * 1e-9);
  }
  if (o.part.empty() || o.part == "scan") bench_scan(fast, loops, o, rates);
  if (o.part.empty() || o.part == "step") bench_step(fast, o, rates);
  if (o.part.empty() || o.part == "length") bench_length(fast, o, rates);
  return 0;
}

}  // namespace
}  // namespace coluber

int main(int argc, char** argv) {
  coluber::Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--json") {
      options.json = true;
    } else if (word == "--threads" && i + 1 < argc) {
      options.threads = std::atoi(argv[++i]);
    } else if (word == "scan" || word == "length" || word == "step") {
      options.part = word;
    } else {
      std::fprintf(stderr, "usage: selective_scan_bench [--threads N] [--json] [scan|length|step]\n");
      return 2;
    }
  }
  return coluber::run(options);
}
