// Every differentiable op but the two sequence ops, in double against central differences.
#include <gtest/gtest.h>

#include "tests/support/gradients.h"

namespace coluber::testing {
namespace {

TEST(Gradcheck, Linear) {
  const Var x = random_parameter({2, 3, 5}, 1), weight = random_parameter({4, 5}, 2), bias = random_parameter({4}, 3);
  expect_gradients("plain", {x, weight}, [&](Graph& g) { return scalar(g, autograd::linear(g, x, weight)); });
  expect_gradients("bias", {x, weight, bias},
                   [&](Graph& g) { return scalar(g, autograd::linear(g, x, weight, bias)); });
}

// The weight of both layers is one: its gradient is the sum of two, the second added in place.
TEST(Gradcheck, LinearWithASharedWeight) {
  const Var x = random_parameter({3, 4}, 1), weight = random_parameter({4, 4}, 2), bias = random_parameter({4}, 3);
  expect_gradients("shared", {x, weight, bias}, [&](Graph& g) {
    return scalar(g, autograd::linear(g, autograd::linear(g, x, weight, bias), weight, bias));
  });
}

TEST(Gradcheck, EmbeddingAndTiedHead) {
  const Tensor ids = Tensor::of<std::int32_t>({2, 4}, {3, 0, 3, 3, 5, 1, 0, 3});
  const Tensor targets = Tensor::of<std::int32_t>({8}, {0, 3, -1, 5, 1, 1, 4, 2});
  const Var table = random_parameter({6, 3}, 1);
  expect_gradients("embedding", {table}, [&](Graph& g) { return scalar(g, autograd::embedding(g, ids, table)); });
  expect_gradients("tied head", {table}, [&](Graph& g) {
    const Var x = autograd::reshape(g, autograd::embedding(g, ids, table), {8, 3});
    return autograd::linear_cross_entropy(g, x, table, targets);
  });
}

// A gradient of the loss other than 1, as in gradient accumulation; a target that is ignored.
TEST(Gradcheck, LinearCrossEntropy) {
  const Tensor targets = Tensor::of<std::int32_t>({7}, {0, 10, -1, 3, 3, 9, -1});
  const Var x = random_parameter({7, 5}, 1), weight = random_parameter({11, 5}, 2);
  expect_gradients("scaled", {x, weight}, [&](Graph& g) {
    return autograd::dot(g, autograd::linear_cross_entropy(g, x, weight, targets), Tensor::full({}, 0.7, DType::kF64));
  });
}

TEST(Gradcheck, NormWithEveryOption) {
  for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
    for (int options = 0; options < 16; ++options) {
      const bool has_weight = (options & 1) != 0, has_bias = (options & 2) != 0, has_residual = (options & 4) != 0;
      const bool uses_sum = (options & 8) != 0;
      const Var x = random_parameter({2, 3, 6}, 1);
      const Var weight = has_weight ? random_parameter({6}, 2) : Var{},
                bias = has_bias ? random_parameter({6}, 3) : Var{};
      const Var residual = has_residual ? random_parameter({2, 3, 6}, 4) : Var{};
      std::vector<Var> inputs = {x};
      for (const Var& input : {weight, bias, residual}) {
        if (input.defined()) inputs.push_back(input);
      }
      expect_gradients("kind " + std::to_string(static_cast<int>(kind)) + " options " + std::to_string(options), inputs,
                       [&](Graph& g) {
                         Var sum;
                         const Var y =
                             autograd::norm(g, x, weight, bias, residual, kind, 1e-3, uses_sum ? &sum : nullptr);
                         return scalar_of_both(g, y, sum);
                       });
    }
  }
}

// The sum alone goes on: the norm's own output is never used.
TEST(Gradcheck, NormWhoseOutputIsNotUsed) {
  const Var x = random_parameter({4, 6}, 1), residual = random_parameter({4, 6}, 4);
  expect_gradients("sum only", {x, residual}, [&](Graph& g) {
    Var sum;
    autograd::norm(g, x, {}, {}, residual, NormKind::kRms, 1e-5, &sum);
    return scalar(g, sum);
  });
}

TEST(Gradcheck, GatedNormWithEveryOption) {
  for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
    for (const bool norm_before_gate : {false, true}) {
      for (const std::int64_t group_size : {0, 4}) {
        const Var x = random_parameter({3, 8}, 1), z = random_parameter({3, 8}, 2), weight = random_parameter({8}, 3);
        const Var bias = norm_before_gate ? random_parameter({8}, 4) : Var{};
        std::vector<Var> inputs = {x, z, weight};
        if (bias.defined()) inputs.push_back(bias);
        expect_gradients(
            "kind " + std::to_string(static_cast<int>(kind)) + (norm_before_gate ? " before" : " after") + " group " +
                std::to_string(group_size),
            inputs, [&](Graph& g) {
              return scalar(g, autograd::gated_norm(g, x, z, weight, bias, kind, 1e-3, norm_before_gate, group_size));
            });
      }
    }
  }
}

TEST(Gradcheck, SplitWithAPartThatNobodyUses) {
  const Var x = random_parameter({2, 3, 9}, 1);
  expect_gradients("all parts", {x}, [&](Graph& g) {
    const std::vector<Var> parts = autograd::split(g, x, {2, 4, 3});
    return autograd::add(g, scalar(g, parts[0], 1), autograd::add(g, scalar(g, parts[1], 2), scalar(g, parts[2], 3)));
  });
  expect_gradients("middle only", {x}, [&](Graph& g) { return scalar(g, autograd::split(g, x, {2, 4, 3})[1]); });
}

TEST(Gradcheck, SmallOps) {
  const Var a = random_parameter({2, 3, 4}, 1), b = random_parameter({2, 3, 4}, 2);
  expect_gradients("add", {a, b}, [&](Graph& g) { return scalar(g, autograd::add(g, a, b)); });
  expect_gradients("add to itself", {a}, [&](Graph& g) { return scalar(g, autograd::add(g, a, a)); });
  expect_gradients("reshape", {a}, [&](Graph& g) { return scalar(g, autograd::reshape(g, a, {6, 4})); });
  expect_gradients("neg_exp", {a}, [&](Graph& g) { return scalar(g, autograd::neg_exp(g, a)); });
  expect_gradients("dot", {a}, [&](Graph& g) { return scalar(g, a); });
}

TEST(Gradcheck, DropoutWithAFixedMask) {
  const Var x = random_parameter({5, 7}, 1);
  expect_gradients("dropout", {x}, [&](Graph& g) {
    g.training = true;
    g.dropout_seed = 5;
    g.dropout_stream = 17;
    return scalar(g, autograd::dropout(g, autograd::dropout(g, x, 0.2), 0.3));
  });
}

// --- the check itself ------------------------------------------------------------------------------------------------
// x^2 summed, whose recorded gradient is 2 x (1 + error) in the first element.
Var square_with_wrong_gradient(Graph& graph, const Var& x, double error) {
  const Tensor squared = ops::multiply(graph.ctx, x.value(), x.value());
  Var y(squared, x.requires_grad());
  if (graph.tape != nullptr) {
    graph.tape->record([x, y, error](Context& ctx) {
      const Tensor grad = ops::multiply(ctx, y.grad(), x.value());
      ops::scale_inplace(ctx, grad, 2);
      grad.set({0}, grad.at({0}) * (1 + error));
      x.accumulate_grad(ctx, grad);
    });
  }
  return y;
}

TEST(Gradcheck, SeesAWrongGradient) {
  Context ctx(ContextOptions{1, Algorithm::kAuto});
  const Var x(Tensor::of<double>({3}, {2, -1, 0.5}), true);
  const Tensor ones = Tensor::full({3}, 1, DType::kF64);
  const auto error_found = [&](double error) {
    return gradcheck(ctx, {x},
                     [&](Graph& g) { return autograd::dot(g, square_with_wrong_gradient(g, x, error), ones); });
  };
  EXPECT_LE(error_found(0), 1e-10);
  EXPECT_NEAR(error_found(1e-5), 1e-5, 1e-9);
  EXPECT_NEAR(error_found(-1), 1, 1e-9);  // a gradient that is missing
}

TEST(Gradcheck, SeesAGradientThatNeverArrives) {
  Context ctx(ContextOptions{1, Algorithm::kAuto});
  const Var x = random_parameter({3}, 1), y = random_parameter({3}, 2);
  const double error = gradcheck(ctx, {x, y}, [&](Graph& g) {
    return autograd::add(g, scalar(g, x), scalar(g, Var(y.value())));  // y is cut off
  });
  EXPECT_NEAR(error, 1, 1e-9);
}

TEST(Gradcheck, SeesNaN) {
  Context ctx(ContextOptions{1, Algorithm::kAuto});
  const Var x(Tensor::of<double>({2}, {1, 800}), true);  // e^800 is infinite
  EXPECT_TRUE(std::isnan(gradcheck(ctx, {x}, [&](Graph& g) { return scalar(g, autograd::neg_exp(g, x)); })));
}

TEST(Gradcheck, RefusesSinglePrecision) {
  Context ctx(ContextOptions{1, Algorithm::kAuto});
  const Var x(Tensor::zeros({2}, DType::kF32), true);
  EXPECT_NE(refusal([&] { gradcheck(ctx, {x}, [&](Graph& g) { return scalar(g, x); }); }).find("f64"),
            std::string::npos);
}

}  // namespace
}  // namespace coluber::testing
