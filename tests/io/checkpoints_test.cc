// Every published-style checkpoint of the goldens, opened.
#include "io/model_dir.h"
#include "tests/support/files.h"
#include "tests/support/tensors.h"

namespace coluber::testing {
namespace {

ModelDir open_golden(const char* name) {
  return open_model_dir(golden_path(join("checkpoints/", name)));
}

TEST(Checkpoints, StateSpaces) {
  const ModelDir dir = open_golden("ss_mamba1");
  EXPECT_EQ(dir.config.layout, CheckpointLayout::kStateSpaces);
  EXPECT_EQ(dir.config.d_model, 32);
  EXPECT_EQ(dir.config.n_layer, 3);
  EXPECT_EQ(dir.config.vocab_size, 97);
  EXPECT_EQ(dir.config.padded_vocab_size(), 104);
  EXPECT_EQ(dir.config.mixer.d_inner, 64);
  EXPECT_EQ(dir.config.mixer.d_state, 16);
  EXPECT_EQ(dir.config.mixer.dt_rank, 2);
  EXPECT_EQ(dir.config.mixer.d_conv, 4);
  EXPECT_EQ(dir.config.norm, NormKind::kRms);
  EXPECT_TRUE(dir.config.tie_embeddings);
  EXPECT_TRUE(dir.warnings.empty());
  EXPECT_EQ(dir.files, std::vector<std::string>{"pytorch_model.bin"});
  EXPECT_EQ(dir.tensors.size(), 33u);
  EXPECT_EQ(dir.tensors.at("lm_head.weight").raw(), dir.tensors.at("backbone.embedding.weight").raw());
}

TEST(Checkpoints, FileOfANewerTorchHoldsTheSameBits) {
  const ModelDir a = open_golden("ss_mamba1"), b = open_golden("ss_mamba1_torch2");
  EXPECT_EQ(a.config, b.config);
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [name, tensor] : a.tensors) EXPECT_TRUE(same_bits(tensor, b.tensors.at(name))) << name;
}

TEST(Checkpoints, LayerNormUntied) {
  const ModelDir dir = open_golden("ss_mamba1_layernorm_untied");
  EXPECT_EQ(dir.config.norm, NormKind::kLayer);
  EXPECT_EQ(dir.config.mixer.d_state, 8);
  EXPECT_FALSE(dir.config.tie_embeddings);
  EXPECT_EQ(dir.config.padded_vocab_size(), 96);
  EXPECT_TRUE(dir.warnings.empty());
}

TEST(Checkpoints, HuggingFace) {
  const ModelDir dir = open_golden("hf_mamba");
  EXPECT_EQ(dir.config.layout, CheckpointLayout::kHfMamba);
  EXPECT_EQ(dir.config.padded_vocab_size(), 120);
  EXPECT_EQ(dir.config.mixer.d_inner, 64);
  EXPECT_EQ(dir.config.eos_token_id, 0);
  EXPECT_EQ(dir.config.initializer_range, 0.1);
  EXPECT_FALSE(dir.config.mixer.norm_dt_B_C);
  EXPECT_TRUE(dir.warnings.empty());
}

TEST(Checkpoints, Shards) {
  const ModelDir dir = open_golden("hf_mamba_sharded");
  EXPECT_EQ(dir.files.size(), 4u);
  EXPECT_EQ(dir.tensors.size(), 27u);
  EXPECT_EQ(dir.config.mixer.d_conv, 3);
  EXPECT_EQ(dir.config.mixer.dt_rank, 3);
  EXPECT_TRUE(dir.config.mixer.bias);
  EXPECT_FALSE(dir.config.tie_embeddings);
  EXPECT_TRUE(dir.warnings.empty());
}

TEST(Checkpoints, FalconMamba) {
  const ModelDir dir = open_golden("hf_falcon_mamba");
  EXPECT_EQ(dir.config.layout, CheckpointLayout::kHfFalconMamba);
  EXPECT_TRUE(dir.config.mixer.norm_dt_B_C);
  EXPECT_EQ(dir.config.mixer.norm_dt_B_C_eps, 1e-6);
  EXPECT_EQ(dir.config.mixer.d_state, 8);
  EXPECT_EQ(dir.config.mixer.dt_rank, 4);
  EXPECT_TRUE(dir.warnings.empty());
}

}  // namespace
}  // namespace coluber::testing
