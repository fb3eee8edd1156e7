// Models to folders and back, in every layout and dtype, and folders that are wrong.
#include <functional>

#include "io/safetensors.h"
#include "tests/models/models.h"
#include "tests/support/refusals.h"

namespace coluber::testing {
namespace {

namespace fs = std::filesystem;

ModelConfig config_for(CheckpointLayout layout) {
  ModelConfig config = small_model();
  config.layout = layout;
  config.mixer.norm_dt_B_C = layout == CheckpointLayout::kHfFalconMamba;
  config.bos_token_id = 1;
  config.eos_token_id = 2;
  return config;
}

SaveOptions save_options(CheckpointLayout layout, bool safetensors = true) {
  SaveOptions options;
  options.layout = layout;
  options.safetensors = safetensors;
  return options;
}

constexpr CheckpointLayout kLayouts[] = {CheckpointLayout::kStateSpaces, CheckpointLayout::kHfMamba,
                                         CheckpointLayout::kHfFalconMamba};

TEST(ModelFiles, RoundTripInEveryLayoutAndDtype) {
  for (const CheckpointLayout layout : kLayouts) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kF64}) {
      for (const bool safetensors : {true, false}) {
        for (const bool tied : {true, false}) {
          SCOPED_TRACE(join(checkpoint_layout_name(layout), " ", dtype_name(dtype),
                            safetensors ? " safetensors" : " bin", tied ? " tied" : " untied"));
          ModelConfig config = config_for(layout);
          config.tie_embeddings = tied;
          const Model model = Model::create(config, 3, dtype);
          const TemporaryFolder folder;
          model.save(folder.path(), save_options(layout, safetensors));
          LoadOptions as_saved;
          if (dtype == DType::kF64) as_saved.dtype = dtype;
          const Model back = Model::load(folder.path(), as_saved);
          ModelConfig expected = model.config();
          if (layout != CheckpointLayout::kStateSpaces) expected.rescale_prenorm_residual = false;  // how weights begin
          EXPECT_EQ(back.config(), expected);
          EXPECT_EQ(back.dtype(), dtype);
          expect_same_parameters(model, back);
        }
      }
    }
  }
}

TEST(ModelFiles, RoundTripOfEveryOption) {
  ModelConfig config = small_model();
  config.norm = NormKind::kLayer;
  config.norm_eps = 2e-5;
  config.residual_in_fp32 = false;
  config.bidirectional = true;
  config.dropout = 0.25;
  config.initializer_range = 0.1;
  config.rescale_prenorm_residual = false;
  config.pad_vocab_size_multiple = 16;
  config.mixer.bias = true;
  config.mixer.conv_bias = false;
  config.mixer.d_conv = 3;
  config.mixer.expand = 1.5;
  config.mixer.dt_rank = 5;
  config.mixer.init = {0.002, 0.2, false, 0.5, 1e-3};
  const Model model = Model::create(config, 3);
  const TemporaryFolder folder;
  model.save(folder.path());
  const Model back = Model::load(folder.path());
  EXPECT_EQ(back.config(), model.config());
  expect_same_parameters(model, back);
}

// From the layout of one house to that of another and back: the same logits, bit for bit.
TEST(ModelFiles, ConversionKeepsTheLogits) {
  const Model published = Model::load(checkpoint_path("ss_mamba1"));
  const TemporaryFolder as_hf, as_ss;
  published.save(as_hf.path(), save_options(CheckpointLayout::kHfMamba));
  const Model hf = Model::load(as_hf.path());
  EXPECT_EQ(hf.config().layout, CheckpointLayout::kHfMamba);
  EXPECT_EQ(hf.config().vocab_size, 97);
  hf.save(as_ss.path(), save_options(CheckpointLayout::kStateSpaces, false));
  const Model back = Model::load(as_ss.path());
  Context ctx(ContextOptions{1, Algorithm::kAuto});
  const Tensor ids = random_ids({2, 9}, 97, 1), expected = published.forward(ctx, ids);
  EXPECT_TRUE(same_bits(hf.forward(ctx, ids), expected));
  EXPECT_TRUE(same_bits(back.forward(ctx, ids), expected));
  expect_same_parameters(published, back);
}

TEST(ModelFiles, SavedInSixteenBits) {
  const Model model = Model::create(small_model(), 3);
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    const TemporaryFolder folder;
    SaveOptions options;
    options.dtype = dtype;
    model.save(folder.path(), options);
    const Model back = Model::load(folder.path());
    for (std::size_t i = 0; i < model.parameters().size(); ++i) {
      const Parameter before = model.parameters()[i], after = back.parameters()[i];
      EXPECT_EQ(after.var.value().dtype(), after.matrix ? dtype : DType::kF32) << after.name;
      const Tensor rounded = before.var.value().to(dtype);
      EXPECT_TRUE(same_bits(after.var.value().to(DType::kF32), rounded.to(DType::kF32))) << after.name;
    }
    LoadOptions wide;
    wide.dtype = DType::kF32;
    EXPECT_EQ(Model::load(folder.path(), wide).dtype(), DType::kF32);
  }
}

TEST(ModelFiles, ShardsOfAnySize) {
  const Model model = Model::create(small_model(), 3);
  const TemporaryFolder folder;
  SaveOptions options;
  options.max_shard_bytes = 4000;
  model.save(folder.path(), options);
  EXPECT_GT(folder.num_files(), 5u);
  expect_same_parameters(model, Model::load(folder.path()));
}

// What is loaded is what was saved last, whatever the folder held before.
TEST(ModelFiles, SavingOverAnotherModel) {
  const Model first = Model::create(small_model(), 3);
  ModelConfig other = small_model();
  other.n_layer = 1;
  const Model second = Model::create(other, 4);
  SaveOptions shards, file, bin;
  shards.max_shard_bytes = 4000;
  bin.safetensors = false;
  for (const SaveOptions& before : {shards, file, bin}) {
    for (const SaveOptions& after : {shards, file, bin}) {
      const TemporaryFolder folder;
      first.save(folder.path(), before);
      second.save(folder.path(), after);
      expect_same_parameters(second, Model::load(folder.path()));
    }
  }
}

TEST(ModelFiles, ATiedModelWithAHeadOfItsOwn) {
  ModelConfig config = small_model();
  config.tie_embeddings = false;
  const Model untied = Model::create(config, 3);
  const TemporaryFolder folder;
  untied.save(folder.path());
  std::string text = read_bytes(folder / "config.json");
  text.replace(text.find("\"tie_embeddings\": false"), 23, "\"tie_embeddings\": true ");
  write_bytes(folder / "config.json", text);
  const Model back = Model::load(folder.path());  // the tensor differs from the embedding: it is the head
  EXPECT_FALSE(back.config().tie_embeddings);
  expect_same_parameters(untied, back);
}

// --- what does not fit -----------------------------------------------------------------------------------------------
RefusalCase bad_folder(const char* name, ErrorCode code, std::vector<std::string> words,
                       const std::function<void(TensorMap&)>& spoil, bool tied = true) {
  return {name, code, std::move(words), [spoil, tied] {
            ModelConfig config = small_model();
            config.tie_embeddings = tied;
            const TemporaryFolder folder;
            Model::create(config, 3).save(folder.path());
            const std::string file = folder / "model.safetensors";
            TensorMap tensors;
            const SafetensorsFile saved = SafetensorsFile::open(file);
            for (const auto& [tensor, value] : saved.tensors()) {
              tensors.emplace(tensor, value.clone());
            }
            spoil(tensors);
            write_safetensors(file, tensors);
            Model::load(folder.path());
          }};
}

RefusalCase bad_save(const char* name, ErrorCode code, std::vector<std::string> words,
                     const std::function<void(ModelConfig&)>& change, const SaveOptions& options) {
  return {name, code, std::move(words), [change, options] {
            ModelConfig config = small_model();
            change(config);
            const TemporaryFolder folder;
            try {
              Model::create(config, 3).save(folder.path(), options);
            } catch (...) {
              EXPECT_EQ(folder.num_files(), 0u) << "half a model was left behind";
              throw;
            }
          }};
}

std::vector<RefusalCase> refusals() {
  const std::string mixer = "backbone.layers.1.mixer.";
  const auto replace = [](const std::string& name, const Shape& shape, DType dtype = DType::kF32) {
    return [=](TensorMap& tensors) { tensors[name] = Tensor::zeros(shape, dtype); };
  };
  const SaveOptions hf = save_options(CheckpointLayout::kHfMamba),
                    falcon = save_options(CheckpointLayout::kHfFalconMamba);
  SaveOptions integers;
  integers.dtype = DType::kI32;
  constexpr ErrorCode kUnsupported = ErrorCode::kUnsupported;
  return {
      bad_folder("MissingTensor", ErrorCode::kNotFound, {mixer + "D", "none"},
                 [=](TensorMap& t) { t.erase(mixer + "D"); }),
      bad_folder("MissingFinalNorm", ErrorCode::kNotFound, {"backbone.norm_f.weight"},
                 [](TensorMap& t) { t.erase("backbone.norm_f.weight"); }),
      bad_folder("ExtraTensor", ErrorCode::kUnsupported, {"backbone.layers.1.mlp.fc1.weight"},
                 replace("backbone.layers.1.mlp.fc1.weight", {4, 4})),
      bad_folder("TwoOfOneName", ErrorCode::kCorruptFile, {"backbone.embedding.weight", "two"},
                 [](TensorMap& t) { t["backbone.embeddings.weight"] = t.at("backbone.embedding.weight"); }),
      bad_folder("WrongWidth", ErrorCode::kCorruptFile, {mixer + "in_proj.weight", "(96, 24)", "(96, 25)"},
                 replace(mixer + "in_proj.weight", {96, 25})),
      bad_folder("WrongState", ErrorCode::kCorruptFile, {mixer + "A_log", "(48, 8)", "(48, 9)"},
                 replace(mixer + "A_log", {48, 9})),
      bad_folder("WrongConvolution", ErrorCode::kCorruptFile, {mixer + "conv1d.weight", "(48, 2, 4)"},
                 replace(mixer + "conv1d.weight", {48, 2, 4})),
      bad_folder("WrongBias", ErrorCode::kCorruptFile, {mixer + "dt_proj.bias", "(48)", "(47)"},
                 replace(mixer + "dt_proj.bias", {47})),
      bad_folder("Integers", ErrorCode::kCorruptFile, {mixer + "out_proj.weight", "i32"},
                 replace(mixer + "out_proj.weight", {24, 48}, DType::kI32)),
      bad_folder("HeadOfAnotherVocabulary", ErrorCode::kCorruptFile, {"lm_head.weight", "(32, 24)", "(40, 24)"},
                 replace("lm_head.weight", {40, 24}), false),
      bad_save("NormsOfDtBCAsStateSpaces", kUnsupported, {"state_spaces", "norms of dt, B and C"},
               [](ModelConfig& c) { c.mixer.norm_dt_B_C = true; }, {}),
      bad_save(
          "PlainAsFalcon", kUnsupported, {"falcon_mamba", "norms of dt, B and C"}, [](ModelConfig&) {}, falcon),
      bad_save(
          "LayerNormAsMamba", kUnsupported, {"layer norm"}, [](ModelConfig& c) { c.norm = NormKind::kLayer; }, hf),
      bad_save(
          "BidirectionalAsMamba", kUnsupported, {"bidirectional"}, [](ModelConfig& c) { c.bidirectional = true; }, hf),
      bad_save(
          "IntegersOnSave", ErrorCode::kInvalidArgument, {"i32"}, [](ModelConfig&) {}, integers),
      {"IntegersOnLoad",
       ErrorCode::kInvalidArgument,
       {"dtype", "u8"},
       [] {
         LoadOptions options;
         options.dtype = DType::kU8;
         Model::load(checkpoint_path("ss_mamba1"), options);
       }},
  };
}

TEST_P(Refusals, OneSentence) {
  expect_refusal(GetParam());
}
INSTANTIATE_TEST_SUITE_P(ModelFiles, Refusals, ::testing::ValuesIn(refusals()), refusal_name);

}  // namespace
}  // namespace coluber::testing
