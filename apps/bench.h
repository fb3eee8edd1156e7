// What the parts of `coluber bench` share: options, timing, models of random weights.
//
// Every figure of a run stands beside what the machine could do at most in the same run (kernels/machine.h):
//   bandwidth_share   bytes that must be read (weights once, and the state) / time / measured read bandwidth
//   matrix_share      operations of the matrix products / time / measured matrix rate of that dtype
// Time is the best of several samples, because other work on a machine only makes a sample slower; the median stands
// beside it.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "apps/cli.h"
#include "coluber/model.h"
#include "kernels/machine.h"

namespace coluber::apps {

struct BenchOptions : CommonOptions {
  std::string what;             // "ops", "decode", "prefill", "train"
  std::string preset = "tiny";  // with or without "mamba-" in front
  std::string dtype = "f32";
  std::int64_t batch = 0;   // 0: 8 for tiny in training, else 1
  std::int64_t seqlen = 0;  // 0: 512
  double seconds = 5;       // measuring goes on for so long
};

struct Timing {
  double best = 0, median = 0;  // seconds
  std::int64_t samples = 0;
};

class Clock {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// Samples of `work` for about `seconds`, at least three after one that does not count. Work shorter than
// `min_sample_seconds` is repeated within a sample. `between` runs after every sample: yardsticks are taken there,
// since the rates of a shared machine change from second to second.
template <class Work>
Timing time_best(double seconds, double min_sample_seconds, Work&& work, const std::function<void()>& between = {}) {
  const Clock first;
  work();
  std::int64_t repeats = 1;
  if (const double once = first.seconds(); once < min_sample_seconds) {
    repeats = static_cast<std::int64_t>(min_sample_seconds / std::max(once, 1e-7)) + 1;
  }
  std::vector<double> samples;
  for (const Clock all; samples.size() < 3 || all.seconds() < seconds;) {
    const Clock sample;
    for (std::int64_t i = 0; i < repeats; ++i) work();
    samples.push_back(sample.seconds() / static_cast<double>(repeats));
    if (between) between();
  }
  std::sort(samples.begin(), samples.end());
  return {samples.front(), samples[samples.size() / 2], static_cast<std::int64_t>(samples.size())};
}

// The config of a preset, "130m" as well as "mamba-130m".
ModelConfig bench_config(const BenchOptions& options);

// A model of that shape whose values are random but ordinary, made in the time that memory takes to fill.
Model random_model(Context& ctx, const ModelConfig& config, DType matrices);

// Parameters that take part in matrix products: each costs two operations a token in a forward pass.
std::int64_t matmul_parameters(const Model& model);

// One measured pass. `bytes` and `flop` are per pass, 0 where they do not apply.
struct Measured {
  Timing time;
  std::int64_t tokens = 0;
  double bytes = 0, flop = 0;
  MachineRates rates;               // best of samples taken in turn with the passes
  std::int64_t peak_rss_bytes = 0;  // before yardsticks took memory
};
Measured bench_decode(Context& ctx, const BenchOptions& options);
Measured bench_prefill(Context& ctx, const BenchOptions& options);
Measured bench_train(Context& ctx, const BenchOptions& options);

// One op of one shape. Figures that do not apply are 0.
struct OpMeasured {
  std::string op, shape;
  Timing time;
  double bytes = 0, flop = 0;
  double reference_seconds = 0;  // of the reference kernel in float, one run
  double tokens = 0;
};
std::vector<OpMeasured> bench_ops(Context& ctx, const BenchOptions& options);

}  // namespace coluber::apps
