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

TEST(Floor, IsSetByTheSlowestLimit) {
  MachineRates rates;
  rates.copy_bytes_per_s = 100;
  rates.f32_flop_per_s = 1000;
  rates.bf16_flop_per_s = 8000;
  rates.exponentials_per_s = 10;
  EXPECT_EQ(floor_of({}, rates, DType::kF32).seconds, 0);
  EXPECT_EQ(floor_of({}, rates, DType::kF32).limit, "");
  const Work work{200, 4000, 30, 500};
  const Floor f32 = floor_of(work, rates, DType::kF32), bf16 = floor_of(work, rates, DType::kBF16);
  EXPECT_EQ(f32.limit, "products");
  EXPECT_EQ(f32.seconds, 4);
  EXPECT_EQ(bf16.limit, "exponentials");
  EXPECT_EQ(bf16.seconds, 3);
  EXPECT_EQ(floor_of(2 * work, rates, DType::kBF16).seconds, 6);
  Work more = work;
  more += {200, 0, 0, 0};
  EXPECT_EQ(floor_of(more, rates, DType::kBF16).limit, "bytes");
  EXPECT_EQ(floor_of(more, rates, DType::kBF16).seconds, 4);
}

// Where no unit of its own makes exponentials, 6 multiply-adds do.
TEST(Floor, ExponentialsOfACpuAreArithmetic) {
  MachineRates rates;
  rates.read_bytes_per_s = 100;
  rates.f32_flop_per_s = 1000;
  const Floor floor = floor_of({100, 0, 200, 600}, rates, DType::kBF16);
  EXPECT_EQ(floor.limit, "arithmetic");
  EXPECT_EQ(floor.seconds, (200 * 12 + 600) / 1000.0);
}

}  // namespace
}  // namespace coluber
