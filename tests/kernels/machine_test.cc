#include "kernels/machine.h"

#include <gtest/gtest.h>

#include "core/threads.h"
#include "kernels/cpu/gemm.h"

namespace coluber {
namespace {

// Limits that no machine with one of our instruction sets misses and none of today exceeds per core, by a factor of ten
// each way; busy machines and sanitizers are slow.
TEST(Machine, RatesArePlausible) {
  ThreadPool threads(1);
  const MachineRates rates = measure_machine(threads, 1);
  EXPECT_GT(rates.read_bytes_per_s, 1e7);
  EXPECT_LT(rates.read_bytes_per_s, 1e12);
  EXPECT_GT(rates.f32_flop_per_s, 1e7);
  EXPECT_LT(rates.f32_flop_per_s, 1e13);
  EXPECT_EQ(rates.bf16_flop_per_s > 0, cpu::gemm_has_bf16());
}

}  // namespace
}  // namespace coluber
