// What the benchmarks of selective_scan on a GPU share: inputs, times, and what the machine can do at most.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "core/cuda.h"
#include "core/cuda/check.h"
#include "core/rng.h"
#include "kernels/machine.h"
#include "kernels/selective_scan.h"
#include "ops/op_check.h"
#include "ops/work.h"

namespace coluber::bench {

inline constexpr Device kGpu{DeviceType::kCuda, 0};
inline constexpr int kRounds = 7;

// Uniform in [low, high); a tile of a million numbers, over and over.
inline Tensor numbers(const Shape& shape, DType dtype, double low, double high) {
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

// Inputs with softplus, D, z, kStates real states and B, C that all channels share, and where y goes.
inline constexpr std::int64_t kStates = 16;

template <class T>
struct ScanInputs {
  Shape rows, coefficients;
  Tensor u, dt, z, B, C, A, D, dt_bias, y;

  ScanInputs(std::int64_t b, std::int64_t l, std::int64_t d) : rows{b, l, d}, coefficients{b, l, 1, kStates} {
    constexpr DType kT = dtype_of<T>::value, kF = DType::kF32;
    u = numbers(rows, kT, -1, 1);
    dt = numbers(rows, kT, -4, 0);
    z = numbers(rows, kT, -2, 2);
    B = numbers(coefficients, kT, -1, 1);
    C = numbers(coefficients, kT, -1, 1);
    A = numbers({d, kStates}, kF, -16, -1);
    D = numbers({d}, kF, -1, 1);
    dt_bias = numbers({d}, kF, -2, 0);
    y = Tensor::empty(rows, kT, kGpu);
  }

  ops::SelectiveScanArgs args() const {
    ops::SelectiveScanArgs a;
    a.u = u;
    a.dt = dt;
    a.A = A;
    a.B = B;
    a.C = C;
    a.D = D;
    a.z = z;
    a.dt_bias = dt_bias;
    a.dt_softplus = true;
    return a;
  }

  SelectiveScanParams<T, float> params() const {
    SelectiveScanParams<T, float> p;
    p.d = rows[2];
    p.n = kStates;
    p.dt_softplus = true;
    p.u = ops::view_of<const T, 3>(u);
    p.dt = ops::view_of<const T, 3>(dt);
    p.z = ops::view_of<const T, 3>(z);
    p.A = ops::view_of<const float, 2>(A);
    p.B = ops::view_of<const T, 4>(B);
    p.C = ops::view_of<const T, 4>(C);
    p.D = D.data<float>();
    p.dt_bias = dt_bias.data<float>();
    p.y = ops::view_of<T, 3>(y);
    return p;
  }
};

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

// Measured in the same run (kernels/machine.h), and said.
inline MachineRates measured_rates() {
  const MachineRates rates = cuda::measure_machine(cuda::current_stream(0));
  std::printf("%s: copies at %.0f GB/s, %.2f exponentials a ns\n", cuda_device_info(0).name.c_str(),
              rates.copy_bytes_per_s * 1e-9, rates.exponentials_per_s * 1e-9);
  return rates;
}

// A line for people and one for programs.
inline void print_case(const std::string& name, double ms, const Work& work, const MachineRates& rates) {
  const double bytes_ms = 1e3 * work.bytes / rates.copy_bytes_per_s;
  const double exponentials_ms = 1e3 * work.exponentials / rates.exponentials_per_s;
  std::printf("%-52s %9.4f ms; floors: bytes %.4f, exponentials %.4f\n", name.c_str(), ms, bytes_ms, exponentials_ms);
  std::printf("{\"case\":\"%s\",\"ms\":%.5f,\"bytes_ms\":%.5f,\"exponentials_ms\":%.5f}\n", name.c_str(), ms, bytes_ms,
              exponentials_ms);
}

}  // namespace coluber::bench
