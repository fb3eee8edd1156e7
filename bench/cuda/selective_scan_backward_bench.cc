// cuda_selective_scan_backward_bench [filter]: backward of selective_scan with softplus, D, z, 16 real states and
// shared B, C at published shapes, with checkpoints and without (then the time has the forward that makes them). Times
// are medians of rounds of launches. Beside them two floors: the bytes that must move once at the rate of
// a device-to-device copy, and the exponentials, logarithms and reciprocals (ops/work.h) at the rate of a loop of
// nothing else, both measured first. One JSON line a case follows each line for people.
#include <string>

#include "bench/cuda/scan_bench.h"
#include "kernels/selective_scan.h"

namespace coluber::bench {
namespace {

struct Case {
  std::int64_t b, d, l;
  bool checkpoints = true;

  std::string name(const char* dtype) const {
    return std::string(checkpoints ? "backward " : "backward without checkpoints ") + dtype + " b" + std::to_string(b) +
           " d" + std::to_string(d) + " l" + std::to_string(l);
  }
};

template <class T>
void run(const Timer& timer, const MachineRates& rates, const Case& c, const std::string& name) {
  constexpr DType kT = dtype_of<T>::value, kF = DType::kF32;
  const ScanInputs<T> in(c.b, c.l, c.d);
  const SelectiveScanParams<T, float> p = in.params();
  const Tensor grad_y = numbers(in.rows, kT, -1, 1);
  const Tensor du = Tensor::empty(in.rows, kT, kGpu), ddt = Tensor::empty(in.rows, kT, kGpu);
  const Tensor dz = Tensor::empty(in.rows, kT, kGpu), dA = Tensor::empty({c.d, kStates}, kF, kGpu);
  const Tensor dB = Tensor::empty(in.coefficients, kT, kGpu), dC = Tensor::empty(in.coefficients, kT, kGpu);
  const Tensor dD = Tensor::empty({c.d}, kF, kGpu), dbias = Tensor::empty({c.d}, kF, kGpu);
  SelectiveScanGradParams<T, float> g;
  g.grad_y = ops::view_of<const T, 3>(grad_y);
  g.grad_u = ops::view_of<T, 3>(du);
  g.grad_dt = ops::view_of<T, 3>(ddt);
  g.grad_z = ops::view_of<T, 3>(dz);
  g.grad_A = ops::view_of<float, 2>(dA);
  g.grad_B = ops::view_of<T, 4>(dB);
  g.grad_C = ops::view_of<T, 4>(dC);
  g.grad_D = dD.data<float>();
  g.grad_dt_bias = dbias.data<float>();
  const cuda::Stream stream = cuda::current_stream(0);
  Tensor checkpoints;
  if (c.checkpoints) {
    checkpoints = Tensor::empty({cuda::selective_scan_checkpoint_elems(stream, p)}, kF, kGpu);
    cuda::selective_scan_forward(stream, p, checkpoints.data<float>());
  }
  const double ms = timer.milliseconds_of(
      [&] { cuda::selective_scan_backward(stream, p, c.checkpoints ? checkpoints.data<float>() : nullptr, g); }, 20);
  print_case(name, ms, ops::selective_scan_backward_work(in.args(), {checkpoints}), rates);
}

int all(const char* filter) {
  const Timer timer;
  const MachineRates rates = measured_rates();
  const std::vector<Case> cases{{8, 2048, 2048}, {8, 5120, 2048},   {1, 2048, 65536},      {1, 5120, 2048},
                                {64, 1536, 512}, {1, 1536, 262144}, {8, 2048, 2048, false}};
  for (const Case& c : cases) {
    if (c.name("bf16").find(filter) != std::string::npos) run<bfloat16>(timer, rates, c, c.name("bf16"));
    if (c.name("f32").find(filter) != std::string::npos) run<float>(timer, rates, c, c.name("f32"));
  }
  return 0;
}

}  // namespace
}  // namespace coluber::bench

int main(int argc, char** argv) {
  return coluber::bench::all(argc > 1 ? argv[1] : "");
}
