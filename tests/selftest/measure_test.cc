// The comparator, on experiments whose errors are known.
#include "selftest/measure.h"

#include <cmath>
#include <limits>

#include "coluber/error.h"
#include "tests/selftest/goldens.h"

namespace coluber::selftest {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

Tensor vector_of(const std::vector<double>& values) {
  return Tensor::of<double>({static_cast<std::int64_t>(values.size())}, values);
}

TEST(RelativeError, IsRelativeAboveOneAndAbsoluteBelow) {
  EXPECT_EQ(relative_error(vector_of({1, 2, 3}), vector_of({1, 2, 3})), 0);
  EXPECT_DOUBLE_EQ(relative_error(vector_of({110}), vector_of({100})), 0.1);
  EXPECT_DOUBLE_EQ(relative_error(vector_of({-90}), vector_of({-100})), 0.1);
  EXPECT_DOUBLE_EQ(relative_error(vector_of({0.75}), vector_of({0.5})), 0.25);
  EXPECT_DOUBLE_EQ(relative_error(vector_of({0, 0.5, 100}), vector_of({0, 0.25, 101})), 0.25) << "the largest of all";
}

TEST(RelativeError, WhatIsNotANumberIsInfinitelyWrong) {
  EXPECT_EQ(relative_error(vector_of({kNan, 1}), vector_of({1, 1})), kInf);
  EXPECT_EQ(relative_error(vector_of({1, kNan}), vector_of({1.5, 1})), kInf);
  EXPECT_EQ(relative_error(vector_of({kNan, 1.5}), vector_of({1, 1})), kInf) << "a later error must not cover it";
  EXPECT_EQ(relative_error(vector_of({1}), vector_of({kNan})), kInf);
  EXPECT_EQ(relative_error(vector_of({kInf}), vector_of({1})), kInf);
  EXPECT_EQ(relative_error(vector_of({1}), vector_of({kInf})), kInf);
  EXPECT_EQ(relative_error(vector_of({-kInf}), vector_of({kInf})), kInf);
  EXPECT_EQ(relative_error(vector_of({kInf}), vector_of({kInf})), 0);
}

TEST(RelativeError, TakesViewsAndOtherDtypes) {
  const Tensor table = Tensor::of<float>({2, 2}, {1, 2, 3, 4});
  EXPECT_EQ(relative_error(table.transpose(0, 1), vector_of({1, 3, 2, 4})), 0);
  EXPECT_EQ(relative_error(Tensor::of<std::int32_t>({2}, {7, 8}), Tensor::of<std::int32_t>({2}, {7, 9})), 1.0 / 9);
  EXPECT_THROW(relative_error(vector_of({1, 2}), vector_of({1})), Error);
}

TEST(Worst, ShareOfAnExactBound) {
  EXPECT_EQ((Worst{"t", 0, 0}.share()), 0);
  EXPECT_EQ((Worst{"t", 1, 0}.share()), kInf);
  EXPECT_EQ((Worst{"t", 1, 4}.share()), 0.25);
}

// y = x0 - x1 with an error of ours on top; `stored` is the dtype of the golden.
struct Difference {
  double x0 = 3, x1 = 1, error = 0;
  double terms = 9;
  DType stored = DType::kF64;

  CaseResult run(const Arithmetic& arithmetic) const {
    GoldenCase golden;
    golden.op = "difference";
    golden.tensors = {{"x", vector_of({x0, x1})}, {"out/y", vector_of({x0 - x1}).to(stored)}};
    Experiment experiment;
    experiment.run = [this](Context&, const Tensors& in) {
      const Tensor x = in.at("x").to(DType::kF64);
      return std::vector<Output>{{"out/y", "out/y", vector_of({x.at({0}) - x.at({1}) + error}), terms}};
    };
    Context ctx({.num_threads = 1});
    return measure(ctx, golden, experiment, {arithmetic}, {});
  }
};

constexpr Arithmetic kExact{DType::kF64, Algorithm::kReference}, kFast{DType::kF32, Algorithm::kAuto};

TEST(Bound, IsRoundoffTimesRootOfTermsTimesCondition) {
  // Moving 3 and 1 by 1 with random signs moves 2 by 2 or 4: relatively 1 or 2. With four patterns it is 2 but for a
  // chance of 1/16, and the patterns are fixed.
  const CaseResult f32 = Difference().run(kFast);
  EXPECT_NEAR(f32.worst.bound, 4 * 0x1p-24 * 3 * (1 + 2), 1e-3 * f32.worst.bound);
  const CaseResult f64 = Difference().run(kExact);
  EXPECT_NEAR(f64.worst.bound, 1e-12 + 4 * 0x1p-53 * 3 * (1 + 2), 1e-16);
}

TEST(Bound, GrowsWithCancellationAndStorage) {
  Difference close;
  close.x0 = 1001, close.x1 = 1000;  // 1 moves by 2001 at most
  EXPECT_NEAR(close.run(kFast).worst.bound, 4 * 0x1p-24 * 3 * (1 + 2001), 1e-2 * close.run(kFast).worst.bound);
  Difference stored;
  stored.stored = DType::kF32;
  EXPECT_NEAR(stored.run(kExact).worst.bound - Difference().run(kExact).worst.bound, 0x1p-24, 1e-20);
}

TEST(Bound, DividesPassFromFail) {
  for (const Arithmetic& arithmetic : {kExact, kFast}) {
    const double bound = Difference().run(arithmetic).worst.bound;
    for (const double factor : {-0.98, 0.98}) {
      Difference good;
      good.error = factor * bound * 2;  // of an expected 2
      const CaseResult result = good.run(arithmetic);
      EXPECT_EQ(result.status, Status::kPass) << factor;
      EXPECT_NEAR(result.worst.share(), 0.98, 0.01);
      EXPECT_EQ(result.worst.tensor, "out/y");
    }
    for (const double error : {1.02 * bound * 2, -1.02 * bound * 2, kNan, kInf}) {
      Difference bad;
      bad.error = error;
      EXPECT_EQ(bad.run(arithmetic).status, Status::kFail) << error;
    }
  }
}

TEST(Bound, CopiesAreExact) {
  Difference copy;
  copy.terms = 0;
  copy.error = 1e-6;
  EXPECT_EQ(copy.run(kFast).status, Status::kFail);
  EXPECT_EQ(copy.run(kFast).worst.bound, 0);
  copy.error = 0;
  EXPECT_EQ(copy.run(kFast).status, Status::kPass);
}

TEST(Measure, KeepsTheWorstOfAllRunsAndTensors) {
  GoldenCase golden;
  golden.op = "two";
  golden.tensors = {{"x", vector_of({1})}, {"out/a", vector_of({1})}, {"out/b", vector_of({1})}};
  Experiment experiment;
  experiment.run = [](Context& ctx, const Tensors& in) {
    const double off = ctx.algorithm() == Algorithm::kAuto ? 1e-6 : 1e-8;
    const Tensor x = in.at("x").to(DType::kF64);
    return std::vector<Output>{{"out/a", "out/a", x, 1}, {"out/b", "out/b", vector_of({x.at({0}) * (1 + off)}), 1}};
  };
  Context ctx({.num_threads = 1, .algorithm = Algorithm::kCpu});
  const CaseResult result = measure(ctx, golden, experiment, {{DType::kF32, Algorithm::kReference}, kFast}, {});
  EXPECT_EQ(result.status, Status::kFail);
  ASSERT_EQ(result.runs.size(), 2u);
  EXPECT_EQ(result.runs[0].status, Status::kPass);
  EXPECT_EQ(result.runs[1].status, Status::kFail);
  EXPECT_EQ(result.worst.tensor, "out/b");
  EXPECT_NEAR(result.worst.error, 1e-6, 1e-12);
  EXPECT_EQ(ctx.algorithm(), Algorithm::kCpu) << "the context gets its algorithm back";
}

TEST(Measure, NothingExpectedIsPassedOver) {
  GoldenCase golden;
  golden.op = "one";
  golden.tensors = {{"x", vector_of({1})}, {"out/y", vector_of({1})}, {"grad/x", vector_of({1})}};
  Experiment experiment;
  experiment.run = [](Context&, const Tensors& in) { return std::vector<Output>{{"out/y", "out/y", in.at("x"), 1}}; };
  Context ctx({.num_threads = 1});
  try {
    measure(ctx, golden, experiment, {kExact}, {});
    FAIL() << "grad/x was passed over";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_NE(std::string(error.what()).find("grad/x"), std::string::npos) << error.what();
  }
  experiment.ignored = {"grad/x"};
  EXPECT_EQ(measure(ctx, golden, experiment, {kExact}, {}).status, Status::kPass);
}

}  // namespace
}  // namespace coluber::selftest
