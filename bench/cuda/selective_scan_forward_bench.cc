// cuda_selective_scan_forward_bench [filter]: selective_scan with softplus, D, z, 16 real states and shared B, C at
// published shapes; with checkpoints for backward; one token. Times are medians of rounds of launches. Beside them two
// floors: the bytes that must move once at the rate of a device-to-device copy, and the exponentials, logarithms and
// reciprocals (ops/work.h) at the rate of a loop of nothing else, both measured first. One JSON line a case follows
// each line for people.
#include <string>

#include "bench/cuda/scan_bench.h"
#include "kernels/selective_scan.h"

namespace coluber::bench {
namespace {

using ops::view_of;
constexpr std::int64_t kBeyondCache = 256 << 20;  // bytes of states that steps rotate through

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

template <class T>
void run(const Timer& timer, const MachineRates& rates, const Case& c, const std::string& name) {
  constexpr DType kF = DType::kF32;
  const ScanInputs<T> in(c.b, c.l, c.d);
  SelectiveScanParams<T, float> p = in.params();
  const std::int64_t state_bytes = c.b * c.d * kStates * 4;
  const std::int64_t sets = c.l == 1 ? kBeyondCache / state_bytes + 1 : 1;
  const Tensor states = numbers({sets, c.b, c.d, kStates}, kF, -1, 1);
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
  const Work work = c.l == 1 ? ops::selective_scan_step_work(in.args(), states.select(0, 0))
                             : ops::selective_scan_forward_work(in.args(), {checkpoints});
  print_case(name, ms, work, rates);
}

int all(const char* filter) {
  const Timer timer;
  const MachineRates rates = measured_rates();
  std::vector<Case> cases{{8, 2048, 2048},   {8, 5120, 2048},       {1, 2048, 65536}, {1, 5120, 2048}, {64, 1536, 512},
                          {1, 1536, 262144}, {8, 2048, 2048, true}, {1, 1536, 1},     {8, 1536, 1},    {64, 1536, 1},
                          {1, 5120, 1},      {8, 5120, 1},          {64, 5120, 1},    {256, 5120, 1}};
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
