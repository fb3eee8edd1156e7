#include "coluber/state.h"

#include <gtest/gtest.h>

#include "tests/support/tensors.h"

namespace coluber {
namespace {

using testing::random_tensor;
using testing::refusal;
using testing::same_bits;

State make(std::int64_t b, std::uint64_t seed = 1) {
  std::vector<LayerState> layers;
  for (std::uint64_t layer = 0; layer < 2; ++layer) {
    layers.push_back({random_tensor({b, 4, 3}, DType::kF32, seed + layer),
                      random_tensor({b, 4, 5}, DType::kF32, seed + layer + 10)});
  }
  return State(std::move(layers), 7);
}

TEST(State, ACopyIsAFork) {
  State a = make(2);
  State b = a;
  EXPECT_TRUE(a.equals(b));
  EXPECT_EQ(b.num_tokens(), 7);
  b.layer(0).ssm.set({1, 2, 3}, 100);
  EXPECT_FALSE(a.equals(b));
  b = a;  // rolled back
  EXPECT_TRUE(a.equals(b));
  b.advance(1);
  EXPECT_FALSE(a.equals(b));
  const State& self = b;
  b = self;
  EXPECT_EQ(b.num_tokens(), 8);
}

TEST(State, SizesAndReset) {
  State a = make(2);
  EXPECT_EQ(a.batch(), 2);
  EXPECT_EQ(a.num_layers(), 2u);
  EXPECT_EQ(a.size_bytes(), 2 * 2 * 4 * (3 + 5) * 4);
  a.reset();
  EXPECT_EQ(a.num_tokens(), 0);
  EXPECT_EQ(testing::max_abs(a.layer(1).conv), 0);
  EXPECT_EQ(State().batch(), 0);
  EXPECT_EQ(State().size_bytes(), 0);
}

TEST(State, RowsAreTakenOutAndPutIn) {
  State a = make(3), other = make(1, 50);
  const State row = a.row(1);
  EXPECT_EQ(row.batch(), 1);
  EXPECT_TRUE(same_bits(row.layer(1).conv, a.layer(1).conv.slice(0, 1, 2)));
  const State before = a;
  a.set_row(2, other);
  EXPECT_TRUE(same_bits(a.layer(0).ssm.slice(0, 2, 3), other.layer(0).ssm));
  EXPECT_TRUE(same_bits(a.layer(0).ssm.slice(0, 0, 2), before.layer(0).ssm.slice(0, 0, 2)));
  a.set_row(2, before.row(2));
  EXPECT_TRUE(a.equals(before));
  EXPECT_EQ(refusal([&] { a.row(3); }), "[tensor] slice: expected 0 <= begin <= end <= 3, got 3 to 4");
  EXPECT_EQ(refusal([&] { a.set_row(0, make(2)); }), "[tensor] shape of a copy: expected (1, 4, 3), got (2, 4, 3)");
  EXPECT_EQ(refusal([&] { a.set_row(0, State()); }), "[state] layers: expected 2, got 0");
}

}  // namespace
}  // namespace coluber
