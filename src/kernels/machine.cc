#include "kernels/machine.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "core/memory.h"
#include "core/threads.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/matmul_isa.h"

namespace coluber {
namespace {

constexpr std::int64_t kLeastBufferBytes = 256 << 20;
constexpr std::int64_t kLineBytes = 64;
constexpr std::int64_t kOrder = 512;          // 3 matrices of 1 MiB: in a private L2 or its share of the last level
constexpr std::int64_t kProductsPerTask = 8;  // 2 GFLOP: 20 ms on one core
// An exponential on the CPU: a polynomial and what scales it (cpu/selective_scan_math.h).
constexpr double kFlopOfExponential = 2 * 6;

template <class F>
double best_seconds(int repetitions, F&& f) {
  double best = 1e300;
  f();  // pages are touched, code is generated
  for (int i = 0; i < repetitions; ++i) {
    const auto start = std::chrono::steady_clock::now();
    f();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

std::int64_t buffer_bytes() {
#ifdef _SC_LEVEL3_CACHE_SIZE
  return std::max<std::int64_t>(kLeastBufferBytes, 2 * std::max<std::int64_t>(sysconf(_SC_LEVEL3_CACHE_SIZE), 0));
#else
  return kLeastBufferBytes;
#endif
}

// Every thread multiplies (kOrder, kOrder) matrices of its own: numbers, since tiles multiply zeros faster (by a tenth
// on a Xeon, whose clock follows the power drawn) than anything that a model has.
template <class T>
double matrix_rate(ThreadPool& threads, int repetitions) {
  constexpr std::int64_t kElems = kOrder * kOrder;
  constexpr std::int64_t kBytes = kElems * static_cast<std::int64_t>(2 * sizeof(T) + sizeof(float));
  const int tasks = threads.num_threads();
  const std::shared_ptr<void> memory = allocate_cpu(tasks * kBytes);
  T* const elems = static_cast<T*>(memory.get());
  for (std::int64_t i = 0; i < tasks * kBytes / static_cast<std::int64_t>(sizeof(T)); ++i)
    elems[i] = static_cast<T>(static_cast<float>(i * 7919 % 1021 - 510) / 512);
  const double seconds = best_seconds(repetitions, [&] {
    threads.run(tasks, [&](std::int64_t task) {
      float* c = static_cast<float*>(memory.get()) + task * (kBytes / 4);
      const T* a = reinterpret_cast<const T*>(c + kElems);
      for (std::int64_t i = 0; i < kProductsPerTask; ++i) {
        cpu::gemm(cpu::Gemm<T>{kOrder, kOrder, kOrder, a, kOrder, false, a + kElems, kOrder, false, false, c, kOrder});
      }
    });
  });
  return 2.0 * kOrder * kOrder * kOrder * kProductsPerTask * tasks / seconds;
}

}  // namespace

Work& Work::operator+=(const Work& other) {
  bytes += other.bytes;
  products += other.products;
  exponentials += other.exponentials;
  flop += other.flop;
  return *this;
}

Work operator*(double times, const Work& work) {
  return {times * work.bytes, times * work.products, times * work.exponentials, times * work.flop};
}

Floor floor_of(const Work& work, const MachineRates& rates, DType compute) {
  Floor floor;
  const auto consider = [&](std::string_view limit, double amount, double rate) {
    if (amount > 0 && rate > 0 && amount / rate > floor.seconds) floor = {amount / rate, limit};
  };
  const bool own_unit = rates.exponentials_per_s > 0;
  consider("bytes", work.bytes, rates.bytes_per_s());
  consider("products", work.products, rates.matrix_flop_per_s(compute));
  consider("exponentials", work.exponentials, rates.exponentials_per_s);
  consider("arithmetic", work.flop + (own_unit ? 0 : kFlopOfExponential * work.exponentials), rates.f32_flop_per_s);
  return floor;
}

ReadBandwidth::ReadBandwidth(ThreadPool& threads)
    : threads_(threads), bytes_(buffer_bytes()), buffer_(allocate_cpu(bytes_)) {
  threads_.run_shares(bytes_ / kLineBytes, [&](std::int64_t begin, std::int64_t end, int) {
    std::memset(static_cast<char*>(buffer_.get()) + begin * kLineBytes, 1,
                static_cast<std::size_t>((end - begin) * kLineBytes));
  });
}

double ReadBandwidth::sample() {
  std::atomic<std::uint32_t> sum{0};  // the reads are for something
  const auto start = std::chrono::steady_clock::now();
  threads_.run_shares(bytes_ / kLineBytes, [&](std::int64_t begin, std::int64_t end, int) {
    const auto* words = static_cast<const std::uint32_t*>(buffer_.get());
    sum += cpu::sum_of_words(words + begin * (kLineBytes / 4), (end - begin) * (kLineBytes / 4));
  });
  return static_cast<double>(bytes_) / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double measure_read_bandwidth(ThreadPool& threads, int repetitions) {
  ReadBandwidth bandwidth(threads);
  double best = 0;
  for (int i = 0; i < repetitions; ++i) best = std::max(best, bandwidth.sample());
  return best;
}

double measure_f32_rate(ThreadPool& threads, int repetitions) {
  return matrix_rate<float>(threads, repetitions);
}

double measure_bf16_rate(ThreadPool& threads, int repetitions) {
  return cpu::gemm_has_bf16() ? matrix_rate<bfloat16>(threads, repetitions) : 0;
}

MachineRates measure_machine(ThreadPool& threads, int repetitions) {
  MachineRates rates;
  rates.read_bytes_per_s = measure_read_bandwidth(threads, repetitions);
  rates.f32_flop_per_s = measure_f32_rate(threads, repetitions);
  rates.bf16_flop_per_s = measure_bf16_rate(threads, repetitions);
  return rates;
}

}  // namespace coluber
