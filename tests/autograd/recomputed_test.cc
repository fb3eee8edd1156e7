// What backward makes again instead of keeping it: the same gradients, in less memory.
#include <gtest/gtest.h>

#include "tests/support/gradients.h"

namespace coluber::testing {
namespace {

constexpr std::int64_t kMiB = 1 << 20;

class RecomputedTest : public ::testing::Test {
 protected:
  Context ctx_{ContextOptions{2, Algorithm::kAuto}};
};

// Two inputs, one of them not there; a parameter that f captures; dropout; two outputs, one of them not there.
TEST_F(RecomputedTest, ASegmentHasTheGradientsOfItsParts) {
  const Tensor values = random_tensor({5, 8}, DType::kF64, 1), seed = random_tensor({5, 3}, DType::kF64, 2);
  const Var weight(random_tensor({3, 8}, DType::kF64, 3), true), other(random_tensor({8, 8}, DType::kF64, 4), true);
  const autograd::Segment f = [&](Graph& graph, const std::vector<Var>& in) {
    EXPECT_FALSE(in[1].defined());
    const Var x = autograd::dropout(graph, autograd::neg_exp(graph, in[0]), 0.3);
    return std::vector<Var>{autograd::linear(graph, x, weight), Var{}};
  };
  const auto gradients = [&](bool again) {
    for (const Var& var : {weight, other}) var.set_grad({});
    Tape tape;
    Graph graph{ctx_, &tape, true};
    graph.dropout_seed = 5;
    const Var x = autograd::linear(graph, autograd::dropout(graph, Var(values), 0.5), other);
    const Var y = (again ? autograd::recomputed(graph, {x, {}}, f) : f(graph, {x, {}}))[0];
    const Var z = autograd::dropout(graph, y, 0.5);  // draws what it draws after the parts
    tape.backward(ctx_, autograd::dot(graph, z, seed));
    return std::vector<Tensor>{weight.grad(), other.grad(), z.value()};
  };
  const std::vector<Tensor> kept = gradients(false), made = gradients(true);
  for (std::size_t i = 0; i < kept.size(); ++i) EXPECT_TRUE(same_bits(made[i], kept[i])) << i;
}

TEST_F(RecomputedTest, WithoutATapeASegmentIsItsParts) {
  Graph graph{ctx_};
  int calls = 0;
  const Var x(Tensor::full({2}, 1, DType::kF64), true);
  const std::vector<Var> y = autograd::recomputed(graph, {x}, [&](Graph& inner, const std::vector<Var>& in) {
    ++calls;
    return std::vector<Var>{autograd::neg_exp(inner, in[0])};
  });
  EXPECT_EQ(calls, 1);
  EXPECT_FALSE(y[0].requires_grad());
}

// 16 segments of four exponentials of 1 MiB: kept are the inputs, made again are the four of one segment.
TEST_F(RecomputedTest, OnlyInputsAreKept) {
  const Var x(Tensor::full({kMiB / 8}, -1, DType::kF64), true);
  Tape tape;
  Graph graph{ctx_, &tape};
  const std::int64_t before = memory_stats().live_bytes;
  Var y = x;
  for (int i = 0; i < 16; ++i) {
    y = autograd::recomputed(graph, {y}, [](Graph& inner, const std::vector<Var>& in) {
      Var z = in[0];
      for (int k = 0; k < 4; ++k) z = autograd::neg_exp(inner, z);
      return std::vector<Var>{z};
    })[0];
  }
  const Var loss = autograd::dot(graph, y, Tensor::full({kMiB / 8}, 1, DType::kF64));
  y = {};
  EXPECT_LE(memory_stats().live_bytes - before, 17 * kMiB);
  reset_memory_peak();
  tape.backward(ctx_, loss);
  EXPECT_LE(memory_stats().peak_bytes - before, 24 * kMiB);
  EXPECT_TRUE(x.grad().defined());
}

// A norm's output that a product reads: `light` makes it again, for both readers at once.
TEST_F(RecomputedTest, LightKeepsNoOutputOfANorm) {
  const std::int64_t rows = kMiB / 8 / 64;
  const Tensor values = random_tensor({rows, 64}, DType::kF64, 1), seed = random_tensor({rows, 2}, DType::kF64, 2);
  const Var weight(Tensor::full({64}, 1, DType::kF64), true), w(random_tensor({2, 64}, DType::kF64, 3), true);
  std::vector<Tensor> kept;
  std::int64_t most = 0;
  for (const Recompute recompute : {Recompute::kNone, Recompute::kLight}) {
    for (const Var& var : {weight, w}) var.set_grad({});
    Tape tape;
    Graph graph{ctx_, &tape};
    graph.recompute = recompute;
    const std::int64_t before = memory_stats().live_bytes;
    Var y = autograd::norm(graph, Var(values), weight, {}, {}, NormKind::kRms, 1e-5);
    Var loss = autograd::add(graph, autograd::dot(graph, autograd::linear(graph, y, w), seed),
                             autograd::dot(graph, autograd::linear(graph, y, w), seed));
    y = {};
    const std::int64_t live = memory_stats().live_bytes - before;
    tape.backward(ctx_, loss);
    if (recompute == Recompute::kNone) {
      kept = {weight.grad(), w.grad()};
      most = live;
    } else {
      EXPECT_LE(live, most - kMiB);
      EXPECT_TRUE(same_bits(weight.grad(), kept[0]));
      EXPECT_TRUE(same_bits(w.grad(), kept[1]));
    }
  }
}

TEST_F(RecomputedTest, Names) {
  for (const Recompute known : {Recompute::kNone, Recompute::kLight, Recompute::kScan, Recompute::kLayer}) {
    EXPECT_EQ(recompute_from_name(recompute_name(known)), known);
  }
  EXPECT_EQ(refusal([] { recompute_from_name("all"); }),
            "[autograd] recompute: expected none, light, scan or layer, got all");
}

}  // namespace
}  // namespace coluber::testing
