#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "coluber/train.h"
#include "core/rng.h"

namespace coluber {
namespace {

Tensor random_tensor(const Shape& shape, DType dtype, std::uint64_t stream) {
  const Tensor tensor = Tensor::empty(shape, DType::kF64);
  const Rng rng(5, stream);
  for (std::int64_t i = 0; i < tensor.numel(); ++i)
    tensor.data<double>()[i] = rng.normal(static_cast<std::uint64_t>(i));
  return tensor.to(dtype);
}

Parameters two_parameters(DType dtype) {
  return {{"w", Var(random_tensor({7, 5}, dtype, 1), true), true, true},
          {"b", Var(random_tensor({7}, dtype, 2), true), false, false}};
}

// The formula of ops.h in plain loops, all parameters after each other.
struct PlainAdamW {
  AdamWOptions options;
  std::vector<double> p, m, v;
  std::vector<bool> decays;

  void step(const std::vector<double>& g, double lr, int t) {
    double squares = 0;
    for (const double x : g) squares += x * x;
    const double scale = options.clip > 0 ? std::min(1.0, options.clip / (std::sqrt(squares) + 1e-6)) : 1;
    for (std::size_t i = 0; i < p.size(); ++i) {
      const double gi = g[i] * scale;
      m[i] = options.beta1 * m[i] + (1 - options.beta1) * gi;
      v[i] = options.beta2 * v[i] + (1 - options.beta2) * gi * gi;
      const double m_hat = m[i] / (1 - std::pow(options.beta1, t)), v_hat = v[i] / (1 - std::pow(options.beta2, t));
      p[i] -= lr * (m_hat / (std::sqrt(v_hat) + options.eps) + (decays[i] ? options.weight_decay * p[i] : 0));
    }
  }
};

std::vector<double> flat(const std::vector<Tensor>& tensors) {
  std::vector<double> all;
  for (const Tensor& tensor : tensors) {
    const Tensor wide = tensor.to(DType::kF64);
    all.insert(all.end(), wide.data<double>(), wide.data<double>() + wide.numel());
  }
  return all;
}

double worst_difference_from_plain_loops(DType dtype, double clip) {
  Context ctx({.num_threads = 2});
  const Parameters parameters = two_parameters(dtype);
  AdamWOptions options;
  options.clip = clip;
  AdamW optimizer(parameters, options);
  PlainAdamW plain;
  plain.options = options;
  plain.p = flat({parameters[0].var.value(), parameters[1].var.value()});
  plain.m.resize(plain.p.size());
  plain.v.resize(plain.p.size());
  for (std::size_t i = 0; i < plain.p.size(); ++i) plain.decays.push_back(i < 35);
  for (int t = 1; t <= 8; ++t) {
    const Tensor gw = random_tensor({7, 5}, dtype, 10 + static_cast<std::uint64_t>(t));
    const Tensor gb = random_tensor({7}, dtype, 20 + static_cast<std::uint64_t>(t));
    parameters[0].var.set_grad(gw.clone());
    parameters[1].var.set_grad(gb.clone());
    optimizer.step(ctx, 0.01 * t);
    plain.step(flat({gw, gb}), 0.01 * t, t);
    EXPECT_FALSE(parameters[0].var.grad().defined());
  }
  double worst = 0;
  const std::vector<double> got = flat({parameters[0].var.value(), parameters[1].var.value()});
  for (std::size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::abs(got[i] - plain.p[i]));
  return worst;
}

TEST(AdamW, EqualsPlainLoops) {
  // Eight updates of about lr each; an f32 rounds each of them, and its moments, to 6e-8 of their size.
  EXPECT_LT(worst_difference_from_plain_loops(DType::kF64, 1.0), 1e-13);
  EXPECT_LT(worst_difference_from_plain_loops(DType::kF64, 0.0), 1e-13);
  EXPECT_LT(worst_difference_from_plain_loops(DType::kF32, 1.0), 5e-6);
}

TEST(AdamW, ReturnsTheNormBeforeClipping) {
  Context ctx({.num_threads = 1});
  const Parameters parameters = two_parameters(DType::kF64);
  AdamW optimizer(parameters, {});
  parameters[0].var.set_grad(Tensor::full({7, 5}, 2, DType::kF64));
  parameters[1].var.set_grad(Tensor::full({7}, 3, DType::kF64));
  EXPECT_DOUBLE_EQ(optimizer.step(ctx, 0.1), std::sqrt(35 * 4 + 7 * 9));
}

TEST(AdamW, LeavesAParameterWithoutGradientAlone) {
  Context ctx({.num_threads = 1});
  const Parameters parameters = two_parameters(DType::kF32);
  AdamW optimizer(parameters, {});
  const std::vector<double> before = flat({parameters[0].var.value()});
  parameters[1].var.set_grad(Tensor::full({7}, 3, DType::kF32));
  optimizer.step(ctx, 0.1);
  EXPECT_EQ(flat({parameters[0].var.value()}), before);
}

TEST(AdamW, RefusesGradientsThatAreNotFiniteAndChangesNothing) {
  Context ctx({.num_threads = 1});
  const Parameters parameters = two_parameters(DType::kF32);
  AdamW optimizer(parameters, {});
  const std::vector<double> before = flat({parameters[0].var.value(), parameters[1].var.value()});
  parameters[0].var.set_grad(Tensor::full({7, 5}, 1, DType::kF32));
  parameters[1].var.set_grad(Tensor::full({7}, std::numeric_limits<double>::quiet_NaN(), DType::kF32));
  try {
    optimizer.step(ctx, 0.1);
    FAIL() << "accepted NaN";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNumeric);
  }
  EXPECT_EQ(flat({parameters[0].var.value(), parameters[1].var.value()}), before);
  EXPECT_EQ(optimizer.num_steps(), 0);
  EXPECT_FALSE(parameters[1].var.grad().defined());
}

TEST(AdamW, ARehearsalChangesNoBit) {
  Context ctx({.num_threads = 2});
  const Parameters parameters = two_parameters(DType::kF32);
  AdamW optimizer(parameters, {});
  const std::vector<double> before = flat({parameters[0].var.value(), parameters[1].var.value()});
  parameters[0].var.set_grad(random_tensor({7, 5}, DType::kF32, 3));
  parameters[1].var.set_grad(random_tensor({7}, DType::kF32, 4));
  EXPECT_TRUE(optimizer.rehearse(ctx));
  EXPECT_EQ(flat({parameters[0].var.value(), parameters[1].var.value()}), before);
  for (const AdamW::Moments& moments : optimizer.moments()) {
    for (const double x : flat({moments.exp_avg, moments.exp_avg_sq})) EXPECT_EQ(x, 0);
  }
}

TEST(AdamW, RefusesOptionsThatDoNotFit) {
  AdamWOptions options;
  options.beta2 = 1;
  EXPECT_THROW(AdamW(two_parameters(DType::kF32), options), Error);
  options = {};
  options.clip = -1;
  EXPECT_THROW(AdamW(two_parameters(DType::kF32), options), Error);
  EXPECT_THROW(AdamW(two_parameters(DType::kBF16), {}), Error);  // updates would be lost in rounding
}

}  // namespace
}  // namespace coluber
