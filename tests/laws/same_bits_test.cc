// The same bits on a rerun and for any number of threads: reading, gradients, and whole training steps.
#include "tests/laws/laws.h"

namespace coluber::testing {
namespace {

struct Types {
  DType weights = DType::kF32;
  DType compute = DType::kF32;
  Algorithm algorithm = Algorithm::kAuto;
};

// Everything that three training steps of a batch with resets and dropout leave behind.
std::vector<Tensor> train(const Types& types, int threads) {
  Context ctx(ContextOptions{threads, types.algorithm});
  ModelConfig config = law_model();
  config.dropout = 0.1;
  const Model model = Model::create(config, 3);
  const Parameters parameters = model.parameters();
  std::vector<Tensor> left, moments, squares;
  for (const Parameter& parameter : parameters) {
    moments.push_back(Tensor::zeros(parameter.var.value().shape(), DType::kF32));
    squares.push_back(Tensor::zeros(parameter.var.value().shape(), DType::kF32));
  }
  for (std::int64_t step = 1; step <= 3; ++step) {
    const auto seed = static_cast<std::uint64_t>(step);
    Tape tape;
    Graph graph{ctx, &tape, true, types.compute, 9, 1000 * seed};
    Sequences sequences;
    sequences.resets = Tensor::zeros({3, 57}, DType::kU8);
    sequences.resets.set({1, 20}, 1);
    const Var loss = model.loss(graph, law_ids({3, 57}, seed), law_ids({3, 57}, 10 + seed), sequences);
    left.push_back(loss.value());
    tape.backward(ctx, loss);
    double norm = 0;
    for (const Parameter& parameter : parameters) norm += ops::sum_of_squares(ctx, parameter.var.grad());
    left.push_back(Tensor::full({}, norm, DType::kF64));
    ops::AdamWArgs args;
    args.step = step;
    args.grad_scale = std::min(1.0, 1 / (std::sqrt(norm) + 1e-6));
    args.weight_decay = 0.1;
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      left.push_back(parameters[i].var.grad());
      ops::adamw_step(ctx, args, parameters[i].var.value(), parameters[i].var.grad(), moments[i], squares[i]);
      parameters[i].var.set_grad({});
    }
  }
  for (const Parameter& parameter : parameters) left.push_back(parameter.var.value());
  return left;
}

std::vector<Tensor> infer(const Types& types, int threads) {
  Context ctx(ContextOptions{threads, types.algorithm});
  const Model model = Model::create(law_model(), 3).to(types.weights);
  State state = model.make_state(2);
  ForwardOptions options;
  options.state = &state;
  options.compute = types.compute;
  std::vector<Tensor> left = {model.forward(ctx, law_ids({2, 70}, 1), options)};
  for (std::uint64_t t = 0; t < 3; ++t) left.push_back(model.step(ctx, law_ids({2}, 30 + t), state));
  for (std::size_t i = 0; i < state.num_layers(); ++i) {
    left.push_back(state.layer(i).conv);
    left.push_back(state.layer(i).ssm);
  }
  return left;
}

void expect_same(const std::vector<Tensor>& a, const std::vector<Tensor>& b, const std::string& what) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(same_bits(a[i], b[i])) << what << ", tensor " << i;
}

constexpr Types kTypes[] = {{}, {DType::kBF16, DType::kF32}, {DType::kBF16, DType::kBF16}, {DType::kF32, DType::kBF16}};

TEST(SameBits, OfTrainingOnAnyNumberOfThreads) {
  for (const DType compute : {DType::kF32, DType::kBF16}) {
    const Types types{DType::kF32, compute};
    const std::vector<Tensor> one = train(types, 1);
    expect_same(train(types, 1), one, "rerun");
    expect_same(train(types, 2), one, "two threads");
    expect_same(train(types, 3), one, "three threads");
    EXPECT_NE(one[0].at({}), one[1].at({}));
  }
}

TEST(SameBits, OfReadingOnAnyNumberOfThreads) {
  for (const Types& types : kTypes) {
    const std::string what = std::string(dtype_name(types.weights)) + " in " + std::string(dtype_name(types.compute));
    const std::vector<Tensor> one = infer(types, 1);
    expect_same(infer(types, 1), one, what + ", rerun");
    expect_same(infer(types, 2), one, what + ", two threads");
    expect_same(infer(types, 3), one, what + ", three threads");
  }
}

// The residual stream in 16 bits: an effect where products are bf16, none where they are f32.
TEST(SameBits, ResidualInFp32MattersForBf16ProductsAlone) {
  ModelConfig narrow = law_model();
  narrow.residual_in_fp32 = false;
  const Model a = Model::create(law_model(), 3), b = Model::create(narrow, 3);
  Context ctx(ContextOptions{1, Algorithm::kAuto});
  const Tensor ids = law_ids({2, 9}, 1);
  EXPECT_TRUE(same_bits(a.forward(ctx, ids), b.forward(ctx, ids)));
  ForwardOptions options;
  options.compute = DType::kBF16;
  const Tensor wide = a.forward(ctx, ids, options), rounded = b.forward(ctx, ids, options);
  EXPECT_FALSE(same_bits(wide, rounded));
  EXPECT_LE(max_error(rounded, wide), 0.05);
}

}  // namespace
}  // namespace coluber::testing
