// What this GPU can do at most: copies, products of bf16, multiply-adds, exponentials.
#include <vector>

#include "kernels/cuda/common/launch.h"
#include "kernels/machine.h"
#include "kernels/matmul.h"

namespace coluber::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerMultiprocessor = 4;  // 32 warps: 8 for each unit of exponentials
constexpr int kChains = 8;                   // of a thread, independent of each other
constexpr int kSteps = 2048;
constexpr int kCopies = 10;  // in a sample: starting one takes as long as copying 20 MB
constexpr std::int64_t kMostCopied = std::int64_t{1} << 29;

// x = 2^-x, which tends to 0.64 whatever it starts from.
struct Exponential {
  __device__ static float of(float x) {
    float y;
    asm volatile("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(-x));
    return y;
  }
};

// x = 1 - x / 2, which tends to 2/3.
struct MultiplyAdd {
  __device__ static float of(float x) {
    float y;
    asm volatile("fma.rn.f32 %0, %1, %2, %3;" : "=f"(y) : "f"(x), "f"(-0.5f), "f"(1.0f));
    return y;
  }
};

template <class Operation>
__global__ void __launch_bounds__(kThreads) machine_chains(float* out) {
  float x[kChains];
#pragma unroll
  for (int i = 0; i < kChains; ++i) x[i] = static_cast<float>(threadIdx.x + i);
#pragma unroll 32  // what counts the steps takes a place of every 250 or more
  for (int step = 0; step < kSteps; ++step)
#pragma unroll
    for (int i = 0; i < kChains; ++i) x[i] = Operation::of(x[i]);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kChains; ++i) sum += x[i];
  out[blockIdx.x * kThreads + threadIdx.x] = sum;
}

class Timer {
 public:
  explicit Timer(const Stream& stream) : stream_(handle_of(stream)) {
    check(cudaEventCreate(&start_), "cudaEventCreate");
    check(cudaEventCreate(&stop_), "cudaEventCreate");
  }
  ~Timer() {
    cudaEventDestroy(start_);
    cudaEventDestroy(stop_);
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  // Of the fastest of `repetitions` calls, after one that does not count.
  template <class F>
  double best_seconds(int repetitions, F&& f) const {
    double best = 1e300;
    for (int i = 0; i <= repetitions; ++i) {
      check(cudaEventRecord(start_, stream_), "cudaEventRecord");
      f();
      check(cudaEventRecord(stop_, stream_), "cudaEventRecord");
      check(cudaEventSynchronize(stop_), "cudaEventSynchronize");
      float milliseconds = 0;
      check(cudaEventElapsedTime(&milliseconds, start_, stop_), "cudaEventElapsedTime");
      if (i > 0) best = std::min(best, 1e-3 * static_cast<double>(milliseconds));
    }
    return best;
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t start_ = nullptr, stop_ = nullptr;
};

double copy_rate(const Timer& timer, const Stream& stream, int repetitions) {
  std::size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  const std::int64_t bytes = std::min(kMostCopied, static_cast<std::int64_t>(free) / 4);
  Scratch scratch(stream);
  char* from = scratch.allocate<char>(bytes);
  char* to = scratch.allocate<char>(bytes);
  const auto copy = [&] {
    for (int i = 0; i < kCopies; ++i)
      check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToDevice, handle_of(stream)),
            "cudaMemcpyAsync");
  };
  return 2.0 * kCopies * static_cast<double>(bytes) / timer.best_seconds(repetitions, copy);
}

// Of numbers like those of a network: of zeros alone, a product draws less power and runs at a higher clock.
double bf16_matrix_rate(const Timer& timer, const Stream& stream, int repetitions) {
  constexpr std::int64_t kOrder = 8192, kCount = kOrder * kOrder;
  std::vector<bfloat16> numbers(kCount);
  std::uint32_t state = 1;
  for (bfloat16& number : numbers) {
    state = state * 1664525u + 1013904223u;
    number.bits = static_cast<std::uint16_t>((state >> 16 & 0x807fu) | 0x3f00u);  // +-[0.5, 1)
  }
  Scratch scratch(stream);
  const auto matrix = [&] { return Matrix{scratch.allocate<bfloat16>(kCount), kOrder, kOrder, kOrder, DType::kBF16}; };
  const MatmulParams p{matrix(), matrix(), matrix(), false, true, false, nullptr};
  const Device device{DeviceType::kCuda, stream.device};
  for (const Matrix& m : {p.a, p.b}) {
    copy_bytes(m.data, device, numbers.data(), kCpuDevice, kCount * static_cast<std::int64_t>(sizeof(bfloat16)));
  }
  return 2.0 * kOrder * kCount / timer.best_seconds(repetitions, [&] { matmul(stream, p); });
}

// Operations a second of chains that nothing else interrupts.
template <class Operation>
double rate_of(const Timer& timer, const Stream& stream, int repetitions) {
  const std::int64_t blocks = std::int64_t{multiprocessors(stream.device)} * kBlocksPerMultiprocessor;
  Scratch scratch(stream);
  auto* out = scratch.allocate<float>(blocks * kThreads);
  const auto run = [&] {
    machine_chains<Operation><<<static_cast<unsigned>(blocks), kThreads, 0, handle_of(stream)>>>(out);
    check_launch("machine_chains");
  };
  return static_cast<double>(blocks * kThreads) * kChains * kSteps / timer.best_seconds(repetitions, run);
}

}  // namespace

MachineRates measure_machine(const Stream& stream, int repetitions) {
  const DeviceScope scope(stream.device);
  const Timer timer(stream);
  MachineRates rates;
  rates.copy_bytes_per_s = copy_rate(timer, stream, repetitions);
  rates.f32_flop_per_s = 2 * rate_of<MultiplyAdd>(timer, stream, repetitions);
  rates.bf16_flop_per_s = bf16_matrix_rate(timer, stream, repetitions);
  rates.exponentials_per_s = rate_of<Exponential>(timer, stream, repetitions);
  return rates;
}

}  // namespace coluber::cuda
