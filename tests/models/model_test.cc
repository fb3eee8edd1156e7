// What a Model does beside its numbers: vocabulary padding, state, loss, dtypes, refusals.
#include "tests/models/models.h"

namespace coluber::testing {
namespace {

class ModelTest : public ::testing::Test {
 protected:
  Context ctx_{ContextOptions{2, Algorithm::kAuto}};
  Model model_ = Model::create(small_model(), 3);
};

TEST_F(ModelTest, TheVocabularyIsPadded) {
  EXPECT_EQ(model_.config().padded_vocab_size(), 32);
  EXPECT_EQ(model_.embedding().value().shape(), (Shape{32, 24}));
  const Tensor ids = random_ids({2, 5}, 29, 1);
  EXPECT_EQ(model_.forward(ctx_, ids).shape(), (Shape{2, 5, 32}));
  State state = model_.make_state(2);
  EXPECT_EQ(model_.step(ctx_, random_ids({2}, 29, 2), state).shape(), (Shape{2, 32}));
  ModelConfig exact = small_model();
  exact.pad_vocab_size_multiple = 1;
  EXPECT_EQ(Model::create(exact, 3).embedding().value().size(0), 29);
}

TEST_F(ModelTest, CountsItsParameters) {
  // d 48, n 8, k 4, u 2, m 24: in_proj, conv, x_proj, dt_proj, A_log, D, out_proj, norm
  const std::int64_t layer = 96 * 24 + 48 * 5 + 18 * 48 + 48 * 3 + 48 * 8 + 48 + 24 * 48 + 24;
  EXPECT_EQ(model_.num_parameters(), 32 * 24 + 2 * layer + 24);
  EXPECT_EQ(model_.size_bytes(), 4 * model_.num_parameters());
  ModelConfig untied = small_model();
  untied.tie_embeddings = false;
  EXPECT_EQ(Model::create(untied, 3).num_parameters(), model_.num_parameters() + 32 * 24);
}

TEST_F(ModelTest, TheEmbeddingStartsNormal) {
  ModelConfig config = small_model();
  config.vocab_size = 4096;
  config.initializer_range = 0.05;
  const Tensor table = Model::create(config, 3).embedding().value();
  double mean = 0, square = 0;
  const auto n = static_cast<double>(table.numel());
  for (std::int64_t i = 0; i < table.numel(); ++i) {
    const double x = table.data<float>()[i];
    mean += x / n;
    square += x * x / n;
  }
  EXPECT_NEAR(mean, 0, 5 * 0.05 / std::sqrt(n));
  EXPECT_NEAR(std::sqrt(square), 0.05, 5 * 0.05 / std::sqrt(2 * n));
}

TEST_F(ModelTest, LastTokenOnly) {
  const Tensor ids = random_ids({2, 5}, 29, 1), all = model_.forward(ctx_, ids);
  ForwardOptions options;
  options.last_token_only = true;
  const Tensor last = model_.forward(ctx_, ids, options);
  EXPECT_EQ(last.shape(), (Shape{2, 1, 32}));
  EXPECT_LE(max_error(last.select(1, 0), all.select(1, 4)), 2 * 24 * kUnitF32);  // sums of 24 in another order
}

// evaluate, loss and logits tell the same loss; ignored targets count nowhere.
TEST_F(ModelTest, EvaluateIsTheLossOfTheLogits) {
  const Tensor ids = random_ids({2, 7}, 29, 1), targets = random_ids({2, 7}, 29, 2);
  targets.set({0, 3}, -1);
  targets.set({1, 6}, -1);
  const LossSum sum = model_.evaluate(ctx_, ids, targets);
  EXPECT_EQ(sum.num_tokens, 12);
  const double mean =
      ops::cross_entropy_forward(ctx_, model_.forward(ctx_, ids).reshape({14, 32}), targets.reshape({14}));
  EXPECT_NEAR(sum.mean(), mean, 1e-6 * mean);
  EXPECT_NEAR(sum.nats, 12 * mean, 12e-6 * mean);
  Graph graph{ctx_};
  EXPECT_EQ(model_.loss(graph, ids, targets).value().at({}), sum.mean());
  EXPECT_NEAR(mean, std::log(29.0), 0.2);  // a model that knows nothing yet
  const LossSum none = model_.evaluate(ctx_, ids, Tensor::full({2, 7}, -1, DType::kI32));
  EXPECT_EQ(none.num_tokens, 0);
  EXPECT_EQ(none.mean(), 0);
}

TEST_F(ModelTest, EvaluateCarriesTheState) {
  const Tensor ids = random_ids({2, 8}, 29, 1), targets = random_ids({2, 8}, 29, 2);
  State state = model_.make_state(2);
  ForwardOptions options;
  options.state = &state;
  double nats = 0;
  for (std::int64_t t = 0; t < 8; t += 4) {
    nats += model_.evaluate(ctx_, ids.slice(1, t, t + 4).contiguous(), targets.slice(1, t, t + 4), options).nats;
  }
  EXPECT_EQ(state.num_tokens(), 8);
  const double whole = model_.evaluate(ctx_, ids, targets).nats;
  EXPECT_NEAR(nats, whole, 1e-6 * whole);
}

TEST_F(ModelTest, EvaluateOfPackedRowsCarriesOneStateEach) {
  const Tensor ids = random_ids({1, 8}, 29, 1), targets = random_ids({1, 8}, 29, 2);
  State packed = model_.make_state(2), first = model_.make_state(1), second = model_.make_state(1);
  ForwardOptions options;
  options.sequences.cu_seqlens = Tensor::of<std::int32_t>({3}, {0, 3, 8});
  options.state = &packed;
  const double together = model_.evaluate(ctx_, ids, targets, options).nats;
  const auto alone = [&](std::int64_t begin, std::int64_t end, State& state) {
    ForwardOptions one;
    one.state = &state;
    return model_.evaluate(ctx_, ids.slice(1, begin, end).contiguous(), targets.slice(1, begin, end), one).nats;
  };
  const double separate = alone(0, 3, first) + alone(3, 8, second);
  EXPECT_NEAR(together, separate, 1e-6 * separate);
  EXPECT_EQ(packed.num_tokens(), 8);  // of both
  EXPECT_LE(max_error(packed.layer(1).ssm.slice(0, 1, 2), second.layer(1).ssm), 1e-5);
  EXPECT_LE(max_error(packed.layer(1).ssm.slice(0, 0, 1), first.layer(1).ssm), 1e-5);
}

TEST_F(ModelTest, OtherDtypesAreCopies) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kF64}) {
    const Model other = model_.to(dtype);
    EXPECT_EQ(other.dtype(), dtype);
    EXPECT_EQ(other.config(), model_.config());
    for (std::size_t i = 0; i < other.parameters().size(); ++i) {
      const Parameter before = model_.parameters()[i], after = other.parameters()[i];
      const DType vectors = dtype == DType::kF64 ? DType::kF64 : DType::kF32;
      EXPECT_TRUE(same_bits(after.var.value(), before.var.value().to(after.matrix ? dtype : vectors))) << after.name;
      EXPECT_NE(after.var.value().raw(), before.var.value().raw()) << after.name;
    }
  }
  EXPECT_EQ(Model::create(small_model(), 3, DType::kBF16).dtype(), DType::kBF16);
  EXPECT_EQ(
      refusal([&] {
        model_.to(DType::kF64).to(Device{DeviceType::kCuda, 0});
      }),
      "[model] dtype on cuda:0: expected f32, bf16 or f16, got f64 (f64 is computed on the cpu alone: convert the "
      "model with to(dtype) first)");
  EXPECT_NE(refusal([&] { model_.to(DType::kI32); }).find("i32"), std::string::npos);
}

// Sixteen bits of storage move logits by no more than the weights move: 2^-9 of each, through two layers.
TEST_F(ModelTest, SixteenBitsChangeLittle) {
  const Tensor ids = random_ids({2, 12}, 29, 1), exact = model_.forward(ctx_, ids);
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    const Tensor rounded = model_.to(dtype).forward(ctx_, ids);
    const double error = max_error(rounded, exact);
    EXPECT_GT(error, 0);
    EXPECT_LE(error, 0.05);
  }
}

// Wide enough for tiles: d_model 128.
class PackedModelTest : public ModelTest {
 protected:
  void SetUp() override {
    ModelConfig config = small_model();
    config.d_model = 128;
    plain_ = Model::create(config, 3, DType::kBF16);
    packed_ = plain_;
    packed_.pack_weights(ctx_);
  }

  // Logits of 2 x 21 tokens, of a step after them, and the state of a layer.
  std::vector<Tensor> read(const Model& model, DType compute) {
    State state = model.make_state(2);
    ForwardOptions options;
    options.state = &state;
    options.compute = compute;
    const Tensor logits = model.forward(ctx_, random_ids({2, 21}, 29, 1), options);
    const Tensor before = state.layer(1).ssm.clone();
    return {logits, before, model.step(ctx_, random_ids({2}, 29, 2), state), state.layer(1).ssm};
  }

  Model plain_, packed_;
};

TEST_F(PackedModelTest, ProductsInBf16KeepTheirBits) {
  const std::vector<Tensor> plain = read(plain_, DType::kBF16), packed = read(packed_, DType::kBF16);
  EXPECT_TRUE(same_bits(packed[0], plain[0]));
  EXPECT_TRUE(same_bits(packed[1], plain[1]));
}

// Sums in f32 in another order: a few roundings a layer, measured 1e-6.
TEST_F(PackedModelTest, ReadsInF32WhatIsThere) {
  const std::vector<Tensor> plain = read(plain_, DType::kF32), packed = read(packed_, DType::kF32);
  for (std::size_t i = 0; i < plain.size(); ++i) EXPECT_LE(max_error(packed[i], plain[i]), 1e-5) << i;
  const Tensor ids = random_ids({2, 21}, 29, 1), targets = random_ids({2, 21}, 29, 4);
  EXPECT_NEAR(packed_.evaluate(ctx_, ids, targets).nats, plain_.evaluate(ctx_, ids, targets).nats, 1e-4);
}

// Chunks of a few tokens are steps, and a row of a batch is what it is alone: bits.
TEST_F(PackedModelTest, ReadsATokenTheSameInAnyCall) {
  const std::int64_t b = 4, l = 8;
  const Tensor ids = random_ids({b, l}, 29, 1);
  State together = packed_.make_state(b);
  Tensor logits;
  for (std::int64_t t = 0; t < l; ++t) logits = packed_.step(ctx_, ids.select(1, t).contiguous(), together);
  for (std::int64_t row = 0; row < b; ++row) {
    State alone = packed_.make_state(1);
    ForwardOptions options;
    options.state = &alone;
    options.last_token_only = true;
    const Tensor last = packed_.forward(ctx_, ids.slice(0, row, row + 1).contiguous(), options);
    EXPECT_TRUE(same_bits(last.reshape({1, last.size(2)}), logits.slice(0, row, row + 1).contiguous())) << row;
    EXPECT_TRUE(together.row(row).equals(alone)) << row;
  }
}

TEST_F(PackedModelTest, PacksInPlaceOfWhatWasPacked) {
  const std::int64_t before = memory_stats().live_bytes;
  packed_.pack_weights(ctx_);
  EXPECT_EQ(memory_stats().live_bytes, before);
}

// --- state -----------------------------------------------------------------------------------------------------------
TEST_F(ModelTest, AStateIsForkedRolledBackSavedAndLoaded) {
  const Tensor ids = random_ids({2, 6}, 29, 1), next = random_ids({2}, 29, 2), other = random_ids({2}, 29, 3);
  State state = model_.make_state(2);
  ForwardOptions options;
  options.state = &state;
  model_.forward(ctx_, ids, options);
  EXPECT_EQ(state.num_tokens(), 6);
  const State fork = state;
  const TemporaryFolder folder;
  state.save(folder / "state.safetensors");
  const Tensor expected = model_.step(ctx_, next, state);
  EXPECT_EQ(state.num_tokens(), 7);
  EXPECT_FALSE(state.equals(fork));
  State loaded = State::load(folder / "state.safetensors");
  EXPECT_TRUE(loaded.equals(fork));
  EXPECT_TRUE(same_bits(model_.step(ctx_, next, loaded), expected));
  EXPECT_TRUE(loaded.equals(state));
  model_.step(ctx_, other, state);
  state = fork;
  EXPECT_TRUE(same_bits(model_.step(ctx_, next, state), expected));
  state.reset();
  EXPECT_TRUE(state.equals(model_.make_state(2)));
}

TEST_F(ModelTest, RowsOfAState) {
  State state = model_.make_state(2);
  ForwardOptions options;
  options.state = &state;
  model_.forward(ctx_, random_ids({2, 6}, 29, 1), options);
  State second = state.row(1);
  EXPECT_EQ(second.batch(), 1);
  const Tensor next = random_ids({2}, 29, 2);
  const State before = state;
  const Tensor both = model_.step(ctx_, next, state);
  EXPECT_TRUE(same_bits(model_.step(ctx_, next.slice(0, 1, 2).contiguous(), second), both.slice(0, 1, 2)));
  State swapped = before;
  swapped.set_row(0, before.row(1));
  EXPECT_TRUE(swapped.row(0).equals(before.row(1)));
  EXPECT_TRUE(swapped.row(1).equals(before.row(1)));
}

// --- refusals --------------------------------------------------------------------------------------------------------
TEST_F(ModelTest, WhatDoesNotFitIsRefused) {
  const auto said = [](const std::string& sentence, const std::string& words) {
    EXPECT_NE(sentence.find(words), std::string::npos) << words << "\n" << sentence;
  };
  const Tensor ids = random_ids({2, 5}, 29, 1);
  State one = model_.make_state(1), two = model_.make_state(2);
  ForwardOptions options;
  options.state = &one;
  said(refusal([&] { model_.forward(ctx_, ids, options); }), "expected 2, got 1");
  said(refusal([&] { model_.step(ctx_, random_ids({2}, 29, 1), one); }), "expected 2, got 1");
  said(refusal([&] { model_.forward(ctx_, random_ids({5}, 29, 1)); }), "rank of ids");
  said(refusal([&] { model_.step(ctx_, ids, two); }), "rank of ids");
  said(refusal([&] { model_.forward(ctx_, Tensor::zeros({2, 5}, DType::kF32)); }), "f32");
  said(refusal([&] { model_.forward(ctx_, Tensor::full({1, 2}, 32, DType::kI32)); }), "32");
  said(refusal([&] { model_.forward(ctx_, Tensor::full({1, 2}, -1, DType::kI32)); }), "-1");
  said(refusal([&] { model_.evaluate(ctx_, ids, random_ids({2, 4}, 29, 1)); }), "(2, 4)");
  Graph graph{ctx_};
  said(refusal([&] { model_.loss(graph, ids, random_ids({5, 2}, 29, 1)); }), "(5, 2)");
  said(refusal([&] { model_.loss(graph, ids, Tensor::full({2, 5}, 40, DType::kI32)); }), "40");
  said(refusal([&] { model_.make_state(-1); }), "-1");
  ModelConfig other = small_model();
  other.n_layer = 3;
  State deeper = Model::create(other, 3).make_state(2);
  options.state = &deeper;
  said(refusal([&] { model_.forward(ctx_, ids, options); }), "make_state");
  other = small_model();
  other.mixer.d_state = 4;
  State narrower = Model::create(other, 3).make_state(2);
  options.state = &narrower;
  said(refusal([&] { model_.forward(ctx_, ids, options); }), "(2, 48, 8)");
  EXPECT_TRUE(narrower.equals(Model::create(other, 3).make_state(2)));
}

TEST_F(ModelTest, ABidirectionalModelHasNoState) {
  ModelConfig config = small_model();
  config.bidirectional = true;
  const Model model = Model::create(config, 3);
  const Tensor ids = random_ids({2, 5}, 29, 1);
  EXPECT_EQ(model.forward(ctx_, ids).shape(), (Shape{2, 5, 32}));
  State state = model.make_state(2);
  ForwardOptions options;
  options.state = &state;
  EXPECT_NE(refusal([&] { model.forward(ctx_, ids, options); }).find("bidirectional"), std::string::npos);
  EXPECT_NE(refusal([&] { model.step(ctx_, random_ids({2}, 29, 1), state); }).find("bidirectional"), std::string::npos);
}

TEST_F(ModelTest, NothingToReadIsRead) {
  State state = model_.make_state(2);
  ForwardOptions options;
  options.state = &state;
  EXPECT_EQ(model_.forward(ctx_, Tensor::empty({2, 0}, DType::kI32), options).shape(), (Shape{2, 0, 32}));
  EXPECT_TRUE(state.equals(model_.make_state(2)));
}

}  // namespace
}  // namespace coluber::testing
