// cuda_selective_scan_forward_bench [filter]: selective_scan with softplus, D, z, 16 real states and shared B, C at
// published shapes; with checkpoints for backward; one token. Times are medians of rounds of launches. Beside them two
// floors: the bytes that must move once at the rate of a device-to-device copy, and 19 exponentials, logarithms and
// reciprocals a token and channel (16 decays, softplus 2, gate 2, less 1 for those by polynomial) at 16 a clock and
// multiprocessor. One JSON line a case follows each line for people.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "core/cuda.h"
#include "core/cuda/check.h"
#include "core/rng.h"
#include "kernels/selective_scan.h"
#include "ops/op_check.h"

namespace coluber {
namespace {

using ops::view_of;
constexpr Device kGpu{DeviceType::kCuda, 0};
constexpr int kRounds = 7;
constexpr std::int64_t kStates = 16;
constexpr std::int64_t kBeyondCache = 256 << 20;  // bytes of states that steps rotate through

// Uniform in [low, high); a tile of a million numbers, over and over.
Tensor numbers(const Shape& shape, DType dtype, double low, double high) {
  const std::int64_t count = std::min<std::int64_t>(shape.numel(), 1 << 20);
  const Tensor tile = Tensor::empty({count}, DType::kF32), to = Tensor::empty(shape, dtype, kGpu);
  for (std::int64_t i = 0; i < count; ++i)
    tile.data<float>()[i] = static_cast<float>(low + (high - low) * Rng(1, 2).uniform(static_cast<std::uint64_t>(i)));
  const Tensor from = tile.to(dtype).to(kGpu);
  for (std::int64_t done = 0; done < to.size_bytes(); done += from.size_bytes()) {
    cuda::copy_bytes(static_cast<std::byte*>(to.raw()) + done, kGpu, from.raw(), kGpu,
                     std::min(from.size_bytes(), to.size_bytes() - done));
  }
  return to;
}

class Timer {
 public:
  Timer() {
    cuda::check(cudaEventCreate(&start_), "event");
    cuda::check(cudaEventCreate(&stop_), "event");
  }
  double milliseconds_of(const std::function<void()>& launch, int launches) const {
    cudaStream_t stream = cuda::handle_of(cuda::current_stream(0));
    std::vector<float> rounds;
    for (int round = 0; round <= kRounds; ++round) {  // the first warms up
      cuda::check(cudaEventRecord(start_, stream), "event");
      for (int i = 0; i < launches; ++i) launch();
      cuda::check(cudaEventRecord(stop_, stream), "event");
      cuda::check(cudaEventSynchronize(stop_), "event");
      float ms = 0;
      cuda::check(cudaEventElapsedTime(&ms, start_, stop_), "event");
      if (round > 0) rounds.push_back(ms / static_cast<float>(launches));
    }
    std::sort(rounds.begin(), rounds.end());
    return rounds[kRounds / 2];
  }

 private:
  cudaEvent_t start_ = nullptr, stop_ = nullptr;
};

struct Case {
  std::int64_t b, d, l;
  bool checkpoints = false;

  std::string name(const char* dtype) const {
    return std::string(l == 1        ? "step "
                       : checkpoints ? "forward with checkpoints "
                                     : "forward ") +
           dtype + " b" + std::to_string(b) + " d" + std::to_string(d) + " l" + std::to_string(l);
  }
};

struct Roofs {
  double bytes_per_ms, exponentials_per_ms;
};

Roofs measured_roofs(const Timer& timer) {
  constexpr std::int64_t kHalf = 1 << 30;
  const Tensor from = Tensor::empty({kHalf}, DType::kU8, kGpu), to = Tensor::empty({kHalf}, DType::kU8, kGpu);
  auto copy = [&] { cuda::copy_bytes(to.raw(), kGpu, from.raw(), kGpu, kHalf); };
  cudaDeviceProp properties;
  int clock_khz = 0;
  cuda::check(cudaGetDeviceProperties(&properties, 0), "properties");
  cuda::check(cudaDeviceGetAttribute(&clock_khz, cudaDevAttrClockRate, 0), "clock rate");
  const Roofs roofs{2.0 * kHalf / timer.milliseconds_of(copy, 4), 16.0 * properties.multiProcessorCount * clock_khz};
  std::printf("%s, %d multiprocessors: copies at %.0f GB/s, %.2f exponentials a ns at %d MHz\n", properties.name,
              properties.multiProcessorCount, roofs.bytes_per_ms * 1e-6, roofs.exponentials_per_ms * 1e-6,
              clock_khz / 1000);
  return roofs;
}

template <class T>
void run(const Timer& timer, const Roofs& roofs, const Case& c, const std::string& name) {
  constexpr DType kT = dtype_of<T>::value, kF = DType::kF32;
  const Shape rows{c.b, c.l, c.d};
  const Tensor u = numbers(rows, kT, -1, 1), dt = numbers(rows, kT, -4, 0), z = numbers(rows, kT, -2, 2);
  const Tensor B = numbers({c.b, c.l, 1, kStates}, kT, -1, 1), C = numbers({c.b, c.l, 1, kStates}, kT, -1, 1);
  const Tensor A = numbers({c.d, kStates}, kF, -16, -1), D = numbers({c.d}, kF, -1, 1);
  const Tensor bias = numbers({c.d}, kF, -2, 0), y = Tensor::empty(rows, kT, kGpu);
  const std::int64_t state_bytes = c.b * c.d * kStates * 4;
  const std::int64_t sets = c.l == 1 ? kBeyondCache / state_bytes + 1 : 1;
  const Tensor states = numbers({sets, c.b, c.d, kStates}, kF, -1, 1);
  SelectiveScanParams<T, float> p;
  p.d = c.d;
  p.n = kStates;
  p.dt_softplus = true;
  p.u = view_of<const T, 3>(u);
  p.dt = view_of<const T, 3>(dt);
  p.z = view_of<const T, 3>(z);
  p.A = view_of<const float, 2>(A);
  p.B = view_of<const T, 4>(B);
  p.C = view_of<const T, 4>(C);
  p.D = D.data<float>();
  p.dt_bias = bias.data<float>();
  p.y = view_of<T, 3>(y);
  const cuda::Stream stream = cuda::current_stream(0);
  Tensor checkpoints;
  if (c.checkpoints) checkpoints = Tensor::empty({cuda::selective_scan_checkpoint_elems(stream, p)}, kF, kGpu);
  std::int64_t next = 0;
  auto launch = [&] {
    if (c.l == 1) {
      const Tensor state = states.select(0, next++ % sets);
      p.state_in = view_of<const float, 3>(state);
      p.state_out = view_of<float, 3>(state);
    }
    cuda::selective_scan_forward(stream, p, c.checkpoints ? checkpoints.data<float>() : nullptr);
  };
  const double ms = timer.milliseconds_of(launch, 20);
  const auto elems = static_cast<double>(rows.numel());
  const double bytes = elems * 4 * sizeof(T) + static_cast<double>(B.size_bytes() + C.size_bytes()) +
                       static_cast<double>(c.l == 1 ? 2 * state_bytes : 0) +
                       static_cast<double>(c.checkpoints ? checkpoints.size_bytes() : 0);
  const double move = bytes / roofs.bytes_per_ms, compute = elems * 19 / roofs.exponentials_per_ms;
  std::printf("%-52s %9.4f ms; floors: bytes %.4f, exponentials %.4f\n", name.c_str(), ms, move, compute);
  std::printf("{\"case\":\"%s\",\"ms\":%.5f,\"bytes_ms\":%.5f,\"exponentials_ms\":%.5f}\n", name.c_str(), ms, move,
              compute);
}

int bench(const char* filter) {
  const Timer timer;
  const Roofs roofs = measured_roofs(timer);
  std::vector<Case> cases{{8, 2048, 2048},   {8, 5120, 2048},       {1, 2048, 65536}, {1, 5120, 2048}, {64, 1536, 512},
                          {1, 1536, 262144}, {8, 2048, 2048, true}, {1, 1536, 1},     {8, 1536, 1},    {64, 1536, 1},
                          {1, 5120, 1},      {8, 5120, 1},          {64, 5120, 1},    {256, 5120, 1}};
  for (const Case& c : cases) {
    if (c.name("bf16").find(filter) != std::string::npos) run<bfloat16>(timer, roofs, c, c.name("bf16"));
    if (c.name("f32").find(filter) != std::string::npos) run<float>(timer, roofs, c, c.name("f32"));
  }
  return 0;
}

}  // namespace
}  // namespace coluber

int main(int argc, char** argv) {
  return coluber::bench(argc > 1 ? argv[1] : "");
}
