#include "coluber/config.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/tensors.h"

namespace coluber {
namespace {

using testing::refusal;

ModelConfig tiny() {
  return model_preset("tiny");
}

TEST(Config, ResolveFillsInWhatIsDerived) {
  MambaConfig mixer;
  mixer.d_model = 100;
  mixer.resolve();
  EXPECT_EQ(mixer.d_inner, 200);
  EXPECT_EQ(mixer.dt_rank, 7);  // ceil(100 / 16)
  MambaConfig given;
  given.d_model = 100;
  given.d_inner = 33;
  given.dt_rank = 5;
  given.resolve();
  EXPECT_EQ(given.d_inner, 33);
  EXPECT_EQ(given.dt_rank, 5);
  const MambaConfig once = given;
  given.resolve();
  EXPECT_EQ(given, once);
}

TEST(Config, VocabularyIsRoundedUp) {
  ModelConfig config = tiny();
  config.vocab_size = 50277;
  EXPECT_EQ(config.padded_vocab_size(), 50280);
  config.pad_vocab_size_multiple = 1;
  EXPECT_EQ(config.padded_vocab_size(), 50277);
  config.vocab_size = 16;
  config.pad_vocab_size_multiple = 16;
  EXPECT_EQ(config.padded_vocab_size(), 16);
}

TEST(Config, PresetsHaveThePublishedShapes) {
  const ModelConfig config = model_preset("mamba-130m");
  EXPECT_EQ(config.d_model, 768);
  EXPECT_EQ(config.n_layer, 24);
  EXPECT_EQ(config.mixer.d_inner, 1536);
  EXPECT_EQ(config.mixer.dt_rank, 48);
  EXPECT_EQ(config.padded_vocab_size(), 50280);
  for (const std::string& name : model_preset_names()) EXPECT_GE(model_preset(name).n_layer, 1) << name;
  EXPECT_EQ(refusal([] { model_preset("mamba"); }),
            "[config] preset: expected one of tiny, mamba-130m, mamba-370m, mamba-790m, mamba-1.4b, mamba-2.8b, got "
            "mamba");
}

TEST(Config, RefusesValuesThatDoNotFit) {
  auto said = [](auto&& change) {
    ModelConfig config = tiny();
    change(config);
    return refusal([&] { config.resolve(); });
  };
  using C = ModelConfig&;
  EXPECT_EQ(said([](C) {}), "");
  EXPECT_EQ(said([](C c) { c.d_model = 0; }), "[config] d_model: expected 1 to 16777216, got 0");
  EXPECT_EQ(said([](C c) { c.d_model = 50000001; }), "[config] d_model: expected 1 to 16777216, got 50000001");
  EXPECT_EQ(said([](C c) { c.n_layer = -1; }), "[config] n_layer: expected 1 to 65536, got -1");
  EXPECT_EQ(said([](C c) { c.vocab_size = 0; }), "[config] vocab_size: expected 1 to 268435456, got 0");
  EXPECT_EQ(said([](C c) { c.pad_vocab_size_multiple = 0; }),
            "[config] pad_vocab_size_multiple: expected 1 to 65536, got 0");
  EXPECT_EQ(said([](C c) { c.norm_eps = -0.5; }), "[config] norm_eps: expected 0 to 1, got -0.5");
  EXPECT_EQ(said([](C c) { c.norm_eps = std::nan(""); }), "[config] norm_eps: expected 0 to 1, got nan");
  EXPECT_EQ(said([](C c) { c.dropout = 1; }), "[config] dropout: expected 0 to 0.999999, got 1");
  EXPECT_EQ(said([](C c) { c.mixer.d_state = 257; }), "[config] d_state: expected 1 to 256, got 257");
  EXPECT_EQ(said([](C c) { c.mixer.d_conv = 0; }), "[config] d_conv: expected 1 to 1024, got 0");
  EXPECT_EQ(said([](C c) { c.mixer.dt_rank = -3; }), "[config] dt_rank: expected 1 to 16777216, got -3");
  EXPECT_EQ(said([](C c) { c.mixer.d_inner = -3; }), "[config] d_inner: expected 1 to 16777216, got -3");
  EXPECT_EQ(said([](C c) {
              c.mixer.d_inner = 0;
              c.mixer.expand = 0;
            }),
            "[config] expand: expected 1e-06 to 1024, got 0");
  EXPECT_EQ(said([](C c) {
              c.mixer.d_inner = 0;
              c.mixer.expand = 0.001;
            }),
            "[config] d_inner: expected 1 to 16777216, got 0");
  EXPECT_EQ(said([](C c) { c.mixer.init.dt_max = 1e-5; }), "[config] dt_max: expected 0.001 to 1000000, got 1e-05");
}

}  // namespace
}  // namespace coluber
