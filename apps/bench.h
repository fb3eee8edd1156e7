// What the parts of `coluber bench` share: options, timing, models and tensors of random numbers.
//
// Every figure of a run stands beside what the machine could do at most in the same run (kernels/machine.h):
//   bandwidth_share   bytes that must be moved / time / measured memory rate
//   matrix_share      operations of the matrix products / time / measured matrix rate of that dtype
//   floor_seconds     the least time for the counted bytes, products, exponentials and other operations (ops/work.h)
// Decoding moves all weights once, and the states: on the CPU, whose yardstick is reading, what is read is counted, on
// a GPU, whose yardstick is copying, what is read and what is written.
// Time is the best of several samples, because other work on a machine only makes a sample slower; the median stands
// beside it. On a GPU a sample is a series of passes that ends when the device has done them.
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
  std::vector<std::int64_t> batch;   // each is measured; none: 8 for tiny in training and on a GPU in ops, else 1
  std::vector<std::int64_t> seqlen;  // each is measured; none: 512, ops beyond tiny 2048
  std::string recompute = "none";    // in training
  std::string cuda_graph = "auto";   // in training on a GPU
  std::int64_t chunk = 0;            // prefill: tokens read at once; 0: all
  double seconds = 5;                // measuring goes on for so long, for each row
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

// Samples of `work` on `device` for about `seconds`, at least three after one that does not count. Work shorter than
// `min_sample_seconds` is repeated within a sample. `between` runs after every sample: yardsticks are taken there,
// since the rates of a shared machine change from second to second.
template <class Work>
Timing time_best(Device device, double seconds, double min_sample_seconds, Work&& work,
                 const std::function<void()>& between = {}) {
  const Clock first;
  work();
  synchronize(device);
  std::int64_t repeats = 1;
  if (const double once = first.seconds(); once < min_sample_seconds) {
    repeats = static_cast<std::int64_t>(min_sample_seconds / std::max(once, 1e-7)) + 1;
  }
  std::vector<double> samples;
  for (const Clock all; samples.size() < 3 || all.seconds() < seconds;) {
    const Clock sample;
    for (std::int64_t i = 0; i < repeats; ++i) work();
    synchronize(device);
    samples.push_back(sample.seconds() / static_cast<double>(repeats));
    if (between) between();
  }
  std::sort(samples.begin(), samples.end());
  return {samples.front(), samples[samples.size() / 2], static_cast<std::int64_t>(samples.size())};
}

// The config of a preset, "130m" as well as "mamba-130m".
ModelConfig bench_config(const BenchOptions& options);

// Where numbers are made and in what they are stored.
struct Place {
  Device device;
  DType dtype = DType::kF32;
};
// Uniform in [low, high): 2^16 of them, over and over.
Tensor random_tensor(const Shape& shape, double low, double high, std::uint64_t stream, const Place& place = {});
// Uniform in [0, bound), on the CPU, i32.
Tensor random_ids(const Shape& shape, std::int64_t bound, std::uint64_t stream);
// A model of that shape whose values are random but ordinary, made in the time that memory takes to fill.
Model random_model(const ModelConfig& config, const Place& matrices);

// Parameters that take part in the products of the layers: each costs two operations a token in a forward pass.
double layer_parameters(const Model& model);

// Refuses with kOutOfMemory when the device has less free.
void refuse_what_does_not_fit(const std::string& what, std::int64_t bytes, Device device);

// One measured pass.
struct Measured {
  std::int64_t batch = 0, seqlen = 0, tokens = 0;  // seqlen: 1 in decode
  Timing time;
  Work work;                        // of a pass
  double bytes = 0, flop = 0;       // behind the shares; 0 where one does not apply
  MachineRates rates;               // on the CPU the best of samples taken in turn with the passes
  std::int64_t peak_rss_bytes = 0;  // of the process, before yardsticks took memory; 0 in later rows
  std::int64_t peak_bytes = 0;      // of tensors on the device
};
using Report = std::function<void(const Measured&)>;
// One report for each batch (and length). `rates`: of the device where it is a GPU.
void bench_decode(Context& ctx, const BenchOptions& options, const MachineRates& rates, const Report& report);
void bench_prefill(Context& ctx, const BenchOptions& options, const MachineRates& rates, const Report& report);
void bench_train(Context& ctx, const BenchOptions& options, const MachineRates& rates, const Report& report);

// One op of one shape. Figures that do not apply are 0.
struct OpMeasured {
  std::string op, shape;
  Timing time;
  Work work;
  double tokens = 0;
  double reference_seconds = 0;  // of the reference kernel in float, one run; on the CPU
};
using OpReport = std::function<void(const OpMeasured&)>;
void bench_ops(Context& ctx, const BenchOptions& options, const OpReport& report);

}  // namespace coluber::apps
