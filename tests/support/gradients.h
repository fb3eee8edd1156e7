// Gradient checks that are asserted, and their worst error on the last line of a test program.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "coluber/autograd.h"
#include "tests/support/tensors.h"

namespace coluber::testing {

// Central differences with step 1e-4 and one Richardson step are good to about 1e-11 of the largest gradient.
inline constexpr double kWorstGradient = 1e-7;

class GradientSummary : public ::testing::Environment {
 public:
  static GradientSummary& instance() {
    static auto* const summary =
        static_cast<GradientSummary*>(::testing::AddGlobalTestEnvironment(new GradientSummary));
    return *summary;
  }
  void add(double error) {
    worst_ = std::isnan(error) || error > worst_ ? error : worst_;
    ++checks_;
  }
  void TearDown() override {
    if (checks_ > 0) std::printf("gradcheck worst relative error %.2g over %d checks\n", worst_, checks_);
  }

 private:
  double worst_ = 0;
  int checks_ = 0;
};
inline GradientSummary& gradient_summary = GradientSummary::instance();  // before main: TearDown is then called

inline void expect_gradients(const std::string& what, const std::vector<Var>& inputs,
                             const std::function<Var(Graph&)>& f, double step = 1e-4) {
  Context ctx(ContextOptions{1, Algorithm::kAuto});
  const double error = gradcheck(ctx, inputs, f, step);
  gradient_summary.add(error);
  EXPECT_LE(error, kWorstGradient) << what;
  for (const Var& input : inputs) EXPECT_GT(max_abs(input.grad()), 0) << what << ": no gradient arrived";
}

// An f64 parameter of standard normal numbers times `scale`.
inline Var random_parameter(const Shape& shape, std::uint64_t seed, double scale = 1) {
  return Var(random_tensor(shape, DType::kF64, seed, scale), true);
}

// sum(x w) with w random: a scalar whose gradient has no symmetry.
inline Var scalar(Graph& graph, const Var& x, std::uint64_t seed = 99) {
  return autograd::dot(graph, x, random_tensor(x.value().shape(), DType::kF64, seed));
}

// The same of two results together; an undefined one counts nothing.
inline Var scalar_of_both(Graph& graph, const Var& x, const Var& y) {
  if (!y.defined()) return scalar(graph, x);
  if (!x.defined()) return scalar(graph, y, 98);
  return autograd::add(graph, scalar(graph, x), scalar(graph, y, 98));
}

}  // namespace coluber::testing
