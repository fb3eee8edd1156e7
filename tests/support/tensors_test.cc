#include "tests/support/tensors.h"

#include <gtest/gtest.h>

#include "core/check.h"

namespace coluber::testing {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
const double kNaN = std::nan("");

Tensor of(const std::vector<double>& values) {
  return Tensor::of<double>({static_cast<std::int64_t>(values.size())}, values);
}

TEST(MaxError, IsRelativeAboveOneAndAbsoluteBelow) {
  EXPECT_DOUBLE_EQ(max_error(of({1, 2}), of({1, 2})), 0);
  EXPECT_DOUBLE_EQ(max_error(of({0.25, 8}), of({0, 16})), 0.5);
  EXPECT_DOUBLE_EQ(max_error(of({0.75, 16}), of({0, 16})), 0.75);
}

TEST(MaxError, SeesWhatIsNotANumber) {
  EXPECT_EQ(max_error(of({kNaN}), of({1})), kInfinity);
  EXPECT_EQ(max_error(of({1}), of({kNaN})), kInfinity);
  EXPECT_EQ(max_error(of({kInfinity}), of({1})), kInfinity);
  EXPECT_EQ(max_error(of({kInfinity}), of({-kInfinity})), kInfinity);
  EXPECT_EQ(max_error(of({kInfinity, kNaN}), of({kInfinity, kNaN})), 0);
}

TEST(MaxError, SeesOtherShapes) {
  EXPECT_EQ(max_error(of({1, 2}), of({1})), kInfinity);
  EXPECT_EQ(max_error(Tensor{}, of({1})), kInfinity);
  EXPECT_EQ(max_error(Tensor{}, Tensor{}), 0);
}

TEST(SameBits, TellsZerosApart) {
  EXPECT_TRUE(same_bits(of({0.0, kNaN}), of({0.0, kNaN})));
  EXPECT_FALSE(same_bits(of({0.0}), of({-0.0})));
  EXPECT_FALSE(same_bits(of({0.0}), of({0.0}).to(DType::kF32)));
  EXPECT_FALSE(same_bits(of({0.0}), of({0.0}).reshape({1, 1})));
  EXPECT_FALSE(same_bits(of({0.0}), Tensor{}));
}

TEST(Refusal, IsTheSentence) {
  EXPECT_EQ(refusal([] {}), "");
  EXPECT_EQ(refusal([] { refuse(ErrorCode::kIo, "here", "no"); }), "[here] no");
}

TEST(RandomTensor, HasMeanZeroAndVarianceOne) {
  const Tensor t = random_tensor({100, 100}, DType::kF32, 1);
  double sum = 0, square = 0;
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    sum += t.data<float>()[i];
    square += std::pow(t.data<float>()[i], 2);
  }
  EXPECT_NEAR(sum / 1e4, 0, 0.05);      // five standard deviations of the mean of 1e4
  EXPECT_NEAR(square / 1e4, 1, 0.075);  // and of the variance
}

}  // namespace
}  // namespace coluber::testing
