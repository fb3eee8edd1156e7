// Context: what every op runs on. Threads, scratch memory and the choice of algorithm, passed explicitly.
//
// One Context serves one caller at a time; make one per thread that wants to work at once (they may share a Model).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "coluber/device.h"

namespace coluber {

class Arena;
class ThreadPool;

// Which kernel an op takes. kAuto picks by device, dtype and shape; the others force a choice for debugging and tests.
enum class Algorithm : std::uint8_t {
  kAuto,
  kReference,  // plain loops, one thread: the meaning of the op
  kCpu,        // the vectorised kernels of src/kernels/cpu (float32)
};

// "auto", "reference", "cpu"
std::string_view algorithm_name(Algorithm algorithm);

struct ContextOptions {
  int num_threads = 0;  // 0: COLUBER_NUM_THREADS, else every core this process may use
  Algorithm algorithm = Algorithm::kAuto;
};

class Context {
 public:
  explicit Context(const ContextOptions& options = {});
  ~Context();
  Context(Context&&) noexcept;
  Context& operator=(Context&&) noexcept;

  ThreadPool& threads() const { return *threads_; }
  Arena& scratch() const { return *scratch_; }  // mark on entry, release on exit: nothing in it outlives an op
  int num_threads() const;
  Algorithm algorithm() const { return algorithm_; }
  void set_algorithm(Algorithm algorithm) { algorithm_ = algorithm; }

 private:
  std::unique_ptr<ThreadPool> threads_;
  std::unique_ptr<Arena> scratch_;
  Algorithm algorithm_;
};

// Bytes held by tensors of a device now and at most since the last reset, and bytes kept for reuse. The process-wide
// figures behind `train`'s memory estimate and `bench`'s report.
struct MemoryStats {
  std::int64_t live_bytes = 0;
  std::int64_t peak_bytes = 0;
  std::int64_t cached_bytes = 0;
};
MemoryStats memory_stats(Device device = kCpuDevice);
void reset_memory_peak(Device device = kCpuDevice);
void release_cached_memory(Device device = kCpuDevice);

// Instruction set of the CPU kernels: "base", "avx2" or "avx512". Chosen once, the best that this machine has;
// COLUBER_ISA=base|avx2|avx512 forces a lower one.
std::string_view cpu_isa();

}  // namespace coluber
