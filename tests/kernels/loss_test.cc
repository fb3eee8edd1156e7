#include "kernels/loss.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/reference/loss.h"
#include "tests/support/tensors.h"

namespace coluber {
namespace {

using namespace coluber::testing;

// 4e-7 for the exponentials of the large terms, as much for their sum in blocks, and the last rounding.
constexpr double kRelative = 1e-6;
constexpr double kGradScale = 0.25;

struct Rows {
  std::vector<double> loss;
  Tensor grad;
};

template <class T>
Rows run(const Tensor& logits, const std::vector<std::int32_t>& targets, bool in_place = false, bool fast = true) {
  Rows out{std::vector<double>(targets.size(), -1),
           in_place ? logits.clone() : Tensor::full(logits.shape(), 7, logits.dtype())};
  CrossEntropyRowsParams<T> p;
  p.rows = logits.size(0);
  p.v = logits.size(1);
  p.logits = in_place ? out.grad.template data<T>() : logits.data<T>();
  p.ld = in_place ? out.grad.stride(0) : logits.stride(0);
  p.targets = targets.data();
  p.loss = out.loss.data();
  p.grad = out.grad.template data<T>();
  p.ldg = out.grad.stride(0);
  p.grad_scale = kGradScale;
  if constexpr (std::is_same_v<T, float>) {
    if (fast) {
      cpu::cross_entropy_rows(p);
      return out;
    }
  }
  reference::cross_entropy_rows(p);
  return out;
}

std::vector<std::int32_t> some_targets(std::int64_t rows, std::int64_t v) {
  std::vector<std::int32_t> targets;
  for (std::int64_t i = 0; i < rows; ++i)
    targets.push_back(i % 5 == 3 ? -1 : static_cast<std::int32_t>((i * 7919) % v));
  return targets;
}

TEST(CrossEntropyRows, MatchDouble) {
  for (std::int64_t v : {1, 2, 3, 7, 15, 16, 17, 31, 33, 64, 255, 256, 257, 1023, 1024, 1025, 3000}) {
    for (double scale : {0.01, 1.0, 10.0, 300.0}) {
      SCOPED_TRACE(::testing::Message() << "v " << v << " scale " << scale);
      const Tensor logits = random_tensor({9, v + 3}, DType::kF32, 5, scale).slice(1, 1, v + 1);
      const std::vector<std::int32_t> targets = some_targets(9, v);
      const Rows fast = run<float>(logits, targets), truth = run<double>(logits.to(DType::kF64), targets);
      for (std::size_t i = 0; i < targets.size(); ++i)
        EXPECT_NEAR(fast.loss[i], truth.loss[i], kRelative * std::max(1.0, std::abs(truth.loss[i]))) << i;
      // grad = scale p: relative error of p, which for a term at distance d from the maximum is kRelative + 6e-8 d. At
      // the target, scale (p - 1): the error of p stays when p is near 1.
      for (std::int64_t i = 0; i < 9; ++i) {
        for (std::int64_t j = 0; j < v; ++j) {
          const double expected = truth.grad.at({i, j});
          const double distance = std::min(90.0, std::abs(std::log(std::max(std::abs(expected), 1e-300))));
          const double near_one = targets[static_cast<std::size_t>(i)] == j ? kGradScale * kRelative : 0;
          const double bound = std::abs(expected) * (kRelative + 1.2e-7 * distance) + near_one + 1e-37;
          ASSERT_NEAR(fast.grad.at({i, j}), expected, bound) << i << "," << j;
        }
      }
    }
  }
}

TEST(CrossEntropyRows, SameBitsInPlace) {
  const Tensor logits = random_tensor({6, 1030}, DType::kF32, 6, 3);
  const std::vector<std::int32_t> targets = some_targets(6, 1030);
  const Rows apart = run<float>(logits, targets), in_place = run<float>(logits, targets, true);
  EXPECT_EQ(apart.loss, in_place.loss);
  EXPECT_TRUE(same_bits(apart.grad, in_place.grad));
}

// A token's row does not depend on its place in a tile.
TEST(CrossEntropyRows, EveryRowAlone) {
  const Tensor logits = random_tensor({6, 77}, DType::kF32, 6, 3);
  const std::vector<std::int32_t> targets = some_targets(6, 77);
  const Rows all = run<float>(logits, targets);
  for (std::int64_t i = 0; i < 6; ++i) {
    const Rows one = run<float>(logits.slice(0, i, i + 1), {targets[static_cast<std::size_t>(i)]});
    EXPECT_EQ(one.loss[0], all.loss[static_cast<std::size_t>(i)]);
    EXPECT_TRUE(same_bits(one.grad, all.grad.slice(0, i, i + 1)));
  }
}

TEST(CrossEntropyRows, IgnoredRowsAreZero) {
  const Tensor logits = Tensor::full({2, 40}, std::numeric_limits<double>::quiet_NaN(), DType::kF32);
  for (bool fast : {false, true}) {
    const Rows rows = run<float>(logits, {-1, -1}, false, fast);
    EXPECT_EQ(rows.loss, (std::vector<double>{0, 0}));
    EXPECT_EQ(max_abs(rows.grad), 0);
  }
}

TEST(CrossEntropyRows, ExtremeLogits) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (bool fast : {false, true}) {
    SCOPED_TRACE(fast ? "fast" : "reference");
    auto loss_of = [&](std::int64_t at, double value, std::int32_t target) {
      const Tensor logits = Tensor::zeros({1, 40}, DType::kF32);
      logits.set({0, at}, value);
      return run<float>(logits, {target}, false, fast);
    };
    EXPECT_NEAR(loss_of(37, -kInfinity, 0).loss[0], std::log(39.0), 1e-5);  // masked: never chosen
    EXPECT_EQ(loss_of(37, -kInfinity, 0).grad.at({0, 37}), 0);
    EXPECT_EQ(loss_of(3, -kInfinity, 3).loss[0], kInfinity);
    EXPECT_NEAR(loss_of(3, 3e38, 3).loss[0], 0, 1e-6);
    EXPECT_NEAR(loss_of(3, 3e38, 4).loss[0] / 3e38, 1, 1e-6);
    for (std::int64_t at : {0, 5, 31, 32, 39}) {
      EXPECT_TRUE(std::isnan(loss_of(at, std::nan(""), 1).loss[0])) << at;
      EXPECT_TRUE(std::isnan(loss_of(at, kInfinity, 1).loss[0])) << at;
    }
  }
}

}  // namespace
}  // namespace coluber
