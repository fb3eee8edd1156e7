#include "ops/linear.h"

#include <gtest/gtest.h>

#include <vector>

#include "coluber/ops.h"
#include "core/cpu_features.h"
#include "tests/support/matrix_bounds.h"

namespace coluber::ops {
namespace {

using namespace coluber::testing;

Context context(int threads = 1, Algorithm algorithm = Algorithm::kAuto) {
  return Context(ContextOptions{threads, algorithm});
}

constexpr DType kWeightTypes[] = {DType::kF32, DType::kBF16, DType::kF16};
constexpr DType kComputes[] = {DType::kF32, DType::kBF16};

struct Case {
  std::int64_t m, out, in;
};
// Odd sizes, sizes around a tile (128 columns, 128 to 1024 rows), sums over tokens that are cut into parts, and some
// for bf16: so many inputs that products are kept apart from y (cpu/matmul_dispatch.cc); for AMX two panels of tokens,
// whose weights are taken where they lie, and more tokens and outputs than a task has (cpu/linear_tiles.cc).
const std::vector<Case> kCases = {{1, 3, 17},       {3, 17, 255},   {8, 257, 3},    {9, 5, 256},  {17, 255, 257},
                                  {130, 129, 33},   {257, 257, 64}, {1030, 140, 7}, {2500, 3, 9}, {5000, 150, 4},
                                  {140, 300, 1601}, {50, 96, 512},  {530, 270, 160}};

struct Problem {
  LinearArgs args;
  Tensor grad_y;
};

Problem make(const Case& c, DType weight = DType::kF32, DType compute = DType::kF32) {
  return {{random_tensor({c.m, c.in}, DType::kF32, 1), random_tensor({c.out, c.in}, weight, 2),
           random_tensor({c.out}, DType::kF32, 3), compute},
          random_tensor({c.m, c.out}, DType::kF32, 4)};
}

// The factor as it is multiplied: what `compute` means.
Tensor rounded(const Tensor& t, DType compute) {
  return compute == DType::kBF16 ? t.to(DType::kBF16) : t;
}

Tensor rows_of(const Tensor& bias, std::int64_t m) {
  return bias.unsqueeze(0).expand(0, m).clone();
}

void check_against_double(Context& ctx, const Case& c, DType weight, DType compute) {
  SCOPED_TRACE(::testing::Message() << c.m << " tokens, (" << c.out << "," << c.in << ") " << dtype_name(weight)
                                    << ", compute " << dtype_name(compute));
  const Problem p = make(c, weight, compute);
  const Tensor x = rounded(p.args.x, compute), w = rounded(p.args.weight, compute), g = rounded(p.grad_y, compute);
  EXPECT_LE(product_share(linear_forward(ctx, p.args), x, w.transpose(0, 1), rows_of(p.args.bias, c.m)), 1);
  const LinearGrads grads = linear_backward(ctx, p.args, p.grad_y);
  EXPECT_LE(product_share(grads.x, g, w), 1);
  EXPECT_LE(product_share(grads.weight, g.transpose(0, 1), x), 1);
  const Tensor ones = Tensor::full({1, c.m}, 1, DType::kF32);  // grad_bias sums unrounded gradients
  EXPECT_LE(product_share(grads.bias, ones, p.grad_y), 1);
}

TEST(Linear, MatchesDouble) {
  Context ctx = context(2);
  for (const Case& c : kCases)
    for (DType weight : kWeightTypes)
      for (DType compute : kComputes) check_against_double(ctx, c, weight, compute);
}

TEST(Linear, ReferenceMatchesDouble) {
  Context ctx = context(1, Algorithm::kReference);
  for (const Case& c : {Case{3, 17, 255}, Case{17, 31, 33}})
    for (DType weight : kWeightTypes)
      for (DType compute : kComputes) check_against_double(ctx, c, weight, compute);
}

TEST(Linear, DoubleIsDouble) {
  Context ctx = context(2);
  const Tensor x = random_tensor({9, 40}, DType::kF64, 1), w = random_tensor({11, 40}, DType::kF64, 2);
  const Tensor bias = random_tensor({11}, DType::kF64, 3), g = random_tensor({9, 11}, DType::kF64, 4);
  const Tensor y = linear_forward(ctx, {x, w, bias});
  ASSERT_EQ(y.dtype(), DType::kF64);
  const Tensor expected = product_f64(x, w.transpose(0, 1));
  for (std::int64_t i = 0; i < 9; ++i)
    for (std::int64_t j = 0; j < 11; ++j) expected.set({i, j}, expected.at({i, j}) + bias.at({j}));
  EXPECT_LE(max_error(y, expected), 1e-13);
  const LinearGrads grads = linear_backward(ctx, {x, w, bias}, g);
  EXPECT_LE(max_error(grads.x, product_f64(g, w)), 1e-13);
  EXPECT_LE(max_error(grads.weight, product_f64(g.transpose(0, 1), x)), 1e-13);
}

// Bits, for any number of threads, with and without a library's own splitting of long sums.
TEST(Linear, SameBitsOnAnyNumberOfThreads) {
  std::vector<Case> cases = kCases;
  cases.push_back({4096, 48, 96});
  for (const Case& c : cases) {
    for (DType weight : kWeightTypes) {
      for (DType compute : kComputes) {
        SCOPED_TRACE(::testing::Message() << c.m << " tokens, (" << c.out << "," << c.in << ") " << dtype_name(weight)
                                          << ", compute " << dtype_name(compute));
        const Problem p = make(c, weight, compute);
        Context one = context(1);
        const Tensor y = linear_forward(one, p.args);
        const LinearGrads grads = linear_backward(one, p.args, p.grad_y);
        for (int threads : {1, 2, 3}) {
          Context ctx = context(threads);
          EXPECT_TRUE(same_bits(linear_forward(ctx, p.args), y)) << threads;
          const LinearGrads again = linear_backward(ctx, p.args, p.grad_y);
          EXPECT_TRUE(same_bits(again.x, grads.x)) << threads;
          EXPECT_TRUE(same_bits(again.weight, grads.weight)) << threads;
          EXPECT_TRUE(same_bits(again.bias, grads.bias)) << threads;
        }
      }
    }
  }
}

// In tiles a sum goes over k in one order: bits.
TEST(Linear, TilesGiveATokenTheSameBitsInAnyPrompt) {
  if (!has_amx_bf16()) GTEST_SKIP() << "no tiles on this machine";
  Context ctx = context(2);
  const Problem whole = make({600, 170, 704}, DType::kBF16, DType::kBF16);
  const Tensor expected = linear_forward(ctx, whole.args);
  for (std::int64_t tokens : {9, 33, 64, 65, 599}) {
    LinearArgs some = whole.args;
    some.x = some.x.slice(0, 1, 1 + tokens);
    EXPECT_TRUE(same_bits(linear_forward(ctx, some), expected.slice(0, 1, 1 + tokens).contiguous())) << tokens;
  }
}

TEST(Linear, AddsToGradientsThatAreThere) {
  for (Algorithm algorithm : {Algorithm::kAuto, Algorithm::kReference}) {
    Context ctx = context(2, algorithm);
    for (DType compute : kComputes) {
      for (const Case& c : {Case{9, 5, 33}, Case{2500, 3, 9}}) {
        const Problem p = make(c, DType::kF32, compute);
        const Tensor weight_before = random_tensor({c.out, c.in}, DType::kF32, 5);
        const Tensor bias_before = random_tensor({c.out}, DType::kF32, 6);
        const Tensor weight_into = weight_before.clone(), bias_into = bias_before.clone();
        const LinearGrads grads = linear_backward(ctx, p.args, p.grad_y, false, weight_into, bias_into);
        EXPECT_FALSE(grads.x.defined());
        EXPECT_EQ(grads.weight.raw(), weight_into.raw());
        EXPECT_EQ(grads.bias.raw(), bias_into.raw());
        EXPECT_LE(product_share(weight_into, rounded(p.grad_y, compute).transpose(0, 1), rounded(p.args.x, compute),
                                weight_before),
                  1);
        EXPECT_LE(product_share(bias_into, Tensor::full({1, c.m}, 1, DType::kF32), p.grad_y, bias_before.unsqueeze(0)),
                  1);
        // Of x into rows with others between them.
        const Tensor wide = random_tensor({c.m, 2 * c.in}, DType::kF32, 7), x_into = wide.slice(1, 0, c.in);
        const Tensor x_before = x_into.clone(), beside = wide.slice(1, c.in, 2 * c.in).clone();
        const LinearTargets to_x{{true, x_into, true}, {false, {}, false}, {false, {}, false}};
        EXPECT_EQ(linear_gradients(ctx, p.args, p.grad_y, to_x).x.raw(), x_into.raw());
        EXPECT_LE(product_share(x_into.clone(), rounded(p.grad_y, compute), rounded(p.args.weight, compute), x_before),
                  1);
        EXPECT_TRUE(same_bits(wide.slice(1, c.in, 2 * c.in).clone(), beside));
      }
    }
  }
}

// Whatever the strides, the numbers are those of a contiguous copy: bits.
TEST(Linear, TakesAnyStrides) {
  Context ctx = context(2);
  const Tensor weight = random_tensor({21, 30}, DType::kF32, 2);
  const Tensor base = random_tensor({4, 5, 64}, DType::kF32, 1), row = random_tensor({1, 1, 30}, DType::kF32, 3);
  const Shape& s = base.strides();
  const std::vector<Tensor> inputs = {
      base.slice(2, 10, 40),                                         // rows apart
      base.slice(2, 10, 40).transpose(0, 1),                         // axes that do not join
      base.slice(1, 1, 3).slice(2, 0, 30),                           // a hole between sequences
      row.expand(0, 4).expand(1, 5),                                 // one row for all
      base.with_strides({4, 5, 30}, {s[0], -s[1], s[2]}, 4 * s[1]),  // backwards in time
      base.with_strides({4, 5, 30}, {s[0], s[1], 2}, 0),             // every second channel
      base.slice(0, 2, 3).slice(2, 3, 33),                           // one sequence
      base.slice(0, 0, 1).slice(1, 0, 1).slice(2, 3, 33),            // one token
  };
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    SCOPED_TRACE(i);
    const Tensor& x = inputs[i];
    const Tensor copy = x.clone();
    const Tensor y = linear_forward(ctx, {x, weight, {}});
    EXPECT_EQ(y.shape(), (Shape{x.size(0), x.size(1), 21}));
    EXPECT_TRUE(same_bits(y, linear_forward(ctx, {copy, weight, {}})));
    const Tensor g = random_tensor({x.size(0), x.size(1), 42}, DType::kF32, 7).slice(2, 0, 21);
    const LinearGrads grads = linear_backward(ctx, {x, weight, {}}, g);
    const LinearGrads expected = linear_backward(ctx, {copy, weight, {}}, g.clone());
    EXPECT_EQ(grads.x.shape(), x.shape());
    EXPECT_TRUE(same_bits(grads.x, expected.x));
    EXPECT_TRUE(same_bits(grads.weight, expected.weight));
    EXPECT_FALSE(grads.bias.defined());
  }
  const Tensor transposed = random_tensor({30, 21}, DType::kF32, 8).transpose(0, 1);
  const Tensor x = base.slice(2, 0, 30);
  EXPECT_TRUE(same_bits(linear_forward(ctx, {x, transposed, {}}), linear_forward(ctx, {x, transposed.clone(), {}})));
  const Tensor vector = random_tensor({30}, DType::kF32, 9);
  EXPECT_EQ(linear_forward(ctx, {vector, weight, {}}).shape(), (Shape{21}));
}

TEST(Linear, EmptySizes) {
  for (Algorithm algorithm : {Algorithm::kAuto, Algorithm::kReference}) {
    Context ctx = context(2, algorithm);
    const Tensor weight = random_tensor({5, 7}, DType::kF32, 1), bias = random_tensor({5}, DType::kF32, 2);
    const Tensor none = Tensor::empty({2, 0, 7}, DType::kF32), grad_none = Tensor::empty({2, 0, 5}, DType::kF32);
    EXPECT_EQ(linear_forward(ctx, {none, weight, bias}).shape(), (Shape{2, 0, 5}));
    const LinearGrads grads = linear_backward(ctx, {none, weight, bias}, grad_none);
    EXPECT_EQ(grads.x.shape(), none.shape());
    EXPECT_TRUE(same_bits(grads.weight, Tensor::zeros({5, 7}, DType::kF32)));
    EXPECT_TRUE(same_bits(grads.bias, Tensor::zeros({5}, DType::kF32)));
    for (std::int64_t m : {3, 20}) {  // no inputs: y is the bias
      const Tensor x = Tensor::empty({m, 0}, DType::kF32), wide = Tensor::empty({5, 0}, DType::kF32);
      EXPECT_TRUE(same_bits(linear_forward(ctx, {x, wide, bias}), rows_of(bias, m)));
      EXPECT_EQ(max_abs(linear_forward(ctx, {x, wide, {}})), 0);
    }
    const Tensor no_outputs = Tensor::empty({0, 7}, DType::kF32), x = random_tensor({4, 7}, DType::kF32, 3);
    EXPECT_EQ(linear_forward(ctx, {x, no_outputs, {}}).shape(), (Shape{4, 0}));
    EXPECT_EQ(max_abs(linear_backward(ctx, {x, no_outputs, {}}, Tensor::empty({4, 0}, DType::kF32)).x), 0);
  }
}

TEST(Linear, BiasMayHaveTheDtypeOfTheWeight) {
  Context ctx = context();
  const Tensor x = random_tensor({3, 8}, DType::kF32, 1), weight = random_tensor({4, 8}, DType::kBF16, 2);
  const Tensor bias = random_tensor({4}, DType::kBF16, 3);
  EXPECT_TRUE(
      same_bits(linear_forward(ctx, {x, weight, bias}), linear_forward(ctx, {x, weight, bias.to(DType::kF32)})));
}

TEST(Linear, RefusesWhatDoesNotFit) {
  Context ctx = context();
  auto tensor = [](const Shape& shape, DType dtype) { return Tensor::zeros(shape, dtype); };
  const Tensor x = tensor({2, 8}, DType::kF32), weight = tensor({4, 8}, DType::kF32);
  auto forward = [&](const LinearArgs& args) { return refusal([&] { linear_forward(ctx, args); }); };
  EXPECT_EQ(forward({x, tensor({4, 7}, DType::kF32), {}}), "[linear] weight: expected shape (any, 8), got (4, 7)");
  EXPECT_EQ(forward({x, {}, {}}), "[linear] weight: expected shape (any, 8), got no tensor");
  EXPECT_EQ(forward({{}, weight, {}}), "[linear] x: expected shape (..., in), got no tensor");
  EXPECT_EQ(forward({tensor({2, 8}, DType::kBF16), weight, {}}), "[linear] dtype of x: expected f32 or f64, got bf16");
  EXPECT_EQ(forward({x, tensor({4, 8}, DType::kF64), {}}),
            "[linear] dtype of weight: expected f32, bf16 or f16 since x is f32, got f64");
  EXPECT_EQ(forward({tensor({2, 8}, DType::kF64), weight, {}}),
            "[linear] dtype of weight: expected f64 since x is f64, got f32");
  EXPECT_EQ(forward({tensor({2, 8}, DType::kF64), tensor({4, 8}, DType::kBF16), {}}),
            "[linear] dtype of weight: expected f64 since x is f64, got bf16");
  EXPECT_EQ(forward({x, weight, tensor({5}, DType::kF32)}), "[linear] bias: expected shape (4), got (5)");
  EXPECT_EQ(forward({x, weight, tensor({4}, DType::kF64)}),
            "[linear] dtype of bias: expected f32 of x or f32 of weight, got f64");
  EXPECT_EQ(forward({x, weight, {}, DType::kF32, {}, tensor({64}, DType::kBF16)}),
            "[linear] packed: expected shape (1024), got (64)");
  EXPECT_EQ(forward({x, weight, {}, DType::kF32, {}, tensor({1024}, DType::kF32)}),
            "[linear] dtype of packed: expected bf16, got f32");
  EXPECT_EQ(forward({x, weight, {}, DType::kF16}), "[linear] compute: expected f32 or bf16, got f16");

  auto backward = [&](const Tensor& grad_y, const Tensor& weight_into = {}, const Tensor& bias_into = {}) {
    return refusal([&] { linear_backward(ctx, {x, weight, {}}, grad_y, true, weight_into, bias_into); });
  };
  const Tensor grad_y = tensor({2, 4}, DType::kF32);
  EXPECT_EQ(backward({}), "[linear] grad_y: expected shape (2, 4), got no tensor");
  EXPECT_EQ(backward(tensor({4, 2}, DType::kF32)), "[linear] grad_y: expected shape (2, 4), got (4, 2)");
  EXPECT_EQ(backward(tensor({2, 4}, DType::kF64)), "[linear] dtype of grad_y: expected f32, got f64");
  EXPECT_EQ(backward(grad_y, tensor({4, 9}, DType::kF32)),
            "[linear] grad_weight_into: expected contiguous, shape (4, 8), got (4, 9)");
  EXPECT_EQ(backward(grad_y, tensor({4, 8}, DType::kF64)), "[linear] dtype of grad_weight_into: expected f32, got f64");
  EXPECT_EQ(backward(grad_y, {}, tensor({3}, DType::kF32)),
            "[linear] grad_bias_into: expected contiguous, shape (4), got (3)");
}

TEST(KernelChoices, NameWhatRuns) {
  const std::vector<KernelChoice> choices = kernel_choices();
  auto kernel_of = [&](std::string_view op) {
    for (const KernelChoice& choice : choices)
      if (choice.op == op) return choice.kernel;
    return std::string("missing");
  };
  EXPECT_EQ(kernel_of("selective_scan"), cpu_isa());
  EXPECT_EQ(kernel_of("linear, up to 8 tokens"), cpu_isa());
  for (const KernelChoice& choice : choices) EXPECT_FALSE(choice.why.empty()) << choice.op;
  const std::vector<KernelChoice> plain = kernel_choices(Algorithm::kReference);
  EXPECT_EQ(plain.size(), choices.size());
  for (const KernelChoice& choice : plain) EXPECT_EQ(choice.kernel, "reference") << choice.op;
  const std::vector<KernelChoice> gpu = kernel_choices(Algorithm::kAuto, {DeviceType::kCuda, 0});
  EXPECT_GE(gpu.size(), choices.size());
  for (const KernelChoice& choice : gpu) {
    EXPECT_FALSE(choice.why.empty()) << choice.op;
    EXPECT_NE(choice.kernel, cpu_isa()) << choice.op;
  }
}

}  // namespace
}  // namespace coluber::ops
