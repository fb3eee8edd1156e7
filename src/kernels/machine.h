// What a machine can do at most, measured now: the yardsticks of `coluber bench` and of the programs in bench/, and the
// least time that some work takes by them.
//
// On the CPU, on the caller's threads:
//   * read bandwidth: every thread sums its contiguous share of a buffer twice as large as the last-level cache;
//   * f32 and bf16 matrix rates: every thread multiplies square matrices that fit its cache, through the best product
//     of this build (cpu/gemm.h).
// On an NVIDIA GPU:
//   * copy bandwidth, read and written: a copy within device memory, ten times the size of the L2 cache;
//   * bf16 matrix rate: products of square matrices through the library (matmul.h);
//   * f32 rate, exponentials: loops of nothing but multiply-adds or exponentials on every multiprocessor.
//
// Each figure is the best of `repetitions`, because other work on a machine only ever makes a sample slower. On the CPU
// that takes about a tenth of a second a repetition and thread, and 256 MiB or more of memory; on a GPU half a second
// in all and up to 1 GiB.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string_view>

#include "coluber/dtype.h"
#include "core/cuda.h"

namespace coluber {

class ThreadPool;

struct MachineRates {
  double read_bytes_per_s = 0;  // CPU only
  double copy_bytes_per_s = 0;  // read and written; GPU only
  double f32_flop_per_s = 0;
  double bf16_flop_per_s = 0;     // 0 where bf16 is widened to f32 (cpu/gemm.h)
  double exponentials_per_s = 0;  // logarithms and reciprocals too; 0 on the CPU, which makes them of multiply-adds

  double bytes_per_s() const { return std::max(read_bytes_per_s, copy_bytes_per_s); }
  // Of products whose factors are of that dtype. f16 is as fast as bf16 where there is hardware for either.
  double matrix_flop_per_s(DType dtype) const {
    return dtype_size(dtype) == 2 && bf16_flop_per_s > 0 ? bf16_flop_per_s : f32_flop_per_s;
  }
};

// What some work cannot do without, whoever does it. Counted per op in ops/work.h.
struct Work {
  double bytes = 0;         // that must be read or written, each once
  double products = 0;      // operations of matrix products, two a multiply-add
  double exponentials = 0;  // logarithms, sines and reciprocals too: one unit of a GPU makes them all
  double flop = 0;          // operations of all else

  Work& operator+=(const Work& other);
  friend Work operator*(double times, const Work& work);
};

// The least time that the work takes at measured rates: that of the limit that is reached first, if all are kept busy
// at once.
struct Floor {
  double seconds = 0;
  std::string_view limit;  // "bytes", "products", "exponentials" or "arithmetic"; empty for no work
};
// `compute`: dtype of the factors of products.
Floor floor_of(const Work& work, const MachineRates& rates, DType compute);

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

namespace cuda {

MachineRates measure_machine(const Stream& stream, int repetitions = 5);

}  // namespace cuda
}  // namespace coluber
