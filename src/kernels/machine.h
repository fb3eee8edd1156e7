// What this machine can do at most, measured now on the caller's threads: the yardsticks of `coluber bench`.
//
//   * read bandwidth: every thread sums its contiguous share of a buffer twice as large as the last-level cache;
//   * f32 and bf16 matrix rates: every thread multiplies square matrices that fit its cache, through the best product
//     of this build (cpu/gemm.h).
//
// Each figure is the best of `repetitions`, because other work on a machine only ever makes a sample slower. Takes
// about a tenth of a second a repetition and thread, and 256 MiB or more of memory.
#pragma once

#include <cstdint>
#include <memory>

namespace coluber {

class ThreadPool;

struct MachineRates {
  double read_bytes_per_s = 0;
  double f32_flop_per_s = 0;
  double bf16_flop_per_s = 0;  // 0 where bf16 is widened to f32 (cpu/gemm.h)
};

// Keeps its buffer, so that samples can be taken between those of other work.
class ReadBandwidth {
 public:
  explicit ReadBandwidth(ThreadPool& threads);
  double sample();  // bytes per second

 private:
  ThreadPool& threads_;
  std::int64_t bytes_;
  std::shared_ptr<void> buffer_;
};

double measure_read_bandwidth(ThreadPool& threads, int repetitions = 5);
double measure_f32_rate(ThreadPool& threads, int repetitions = 5);
double measure_bf16_rate(ThreadPool& threads, int repetitions = 5);
MachineRates measure_machine(ThreadPool& threads, int repetitions = 5);

}  // namespace coluber
