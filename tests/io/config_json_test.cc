// config.json of each layout: read, written, read again.
#include <nlohmann/json.hpp>

#include "io/model_dir.h"
#include "tests/support/files.h"
#include "tests/support/tensors.h"

namespace coluber::testing {
namespace {

using Layout = CheckpointLayout;

ModelConfig round_trip(ModelConfig config, Layout layout) {
  config.layout = layout;
  const ModelConfig read = config_from_json(write_config_json(config, layout));
  EXPECT_EQ(config_from_json(write_config_json(read, layout)), read);
  return read;
}

// Everything that differs from its default.
ModelConfig unusual() {
  ModelConfig config;
  config.d_model = 48;
  config.n_layer = 5;
  config.vocab_size = 1001;
  config.pad_vocab_size_multiple = 16;
  config.mixer.d_state = 24;
  config.mixer.d_conv = 3;
  config.mixer.expand = 1.5;
  config.mixer.dt_rank = 7;
  config.mixer.conv_bias = false;
  config.mixer.bias = true;
  config.mixer.init = {0.002, 0.2, false, 2.0, 1e-5};
  config.norm_eps = 1e-6;
  config.residual_in_fp32 = false;
  config.tie_embeddings = false;
  config.dropout = 0.125;
  config.initializer_range = 0.05;
  config.rescale_prenorm_residual = false;
  config.bos_token_id = 1;
  config.eos_token_id = 2;
  config.pad_token_id = 0;
  config.resolve();
  return config;
}

TEST(ConfigJson, RoundTripOfEveryField) {
  for (const Layout layout : {Layout::kStateSpaces, Layout::kHfMamba, Layout::kHfFalconMamba}) {
    ModelConfig config = unusual();
    config.layout = layout;
    config.mixer.norm_dt_B_C = layout == Layout::kHfFalconMamba;
    if (config.mixer.norm_dt_B_C) config.mixer.norm_dt_B_C_eps = 1e-7;
    EXPECT_EQ(round_trip(config, layout), config) << checkpoint_layout_name(layout);
  }
  ModelConfig config = unusual();
  config.norm = NormKind::kLayer;
  config.bidirectional = true;
  EXPECT_EQ(round_trip(config, Layout::kStateSpaces), config);
}

TEST(ConfigJson, RoundTripOfPresets) {
  for (const std::string& name : model_preset_names()) {
    for (const Layout layout : {Layout::kStateSpaces, Layout::kHfMamba}) {
      ModelConfig config = model_preset(name);
      config.layout = layout;
      ModelConfig expected = config;
      if (layout == Layout::kHfMamba) expected.rescale_prenorm_residual = false;  // transformers would rescale again
      EXPECT_EQ(round_trip(config, layout), expected) << name;
    }
  }
}

// int(expand * d_model) must give d_inner whatever the quotient rounds to.
TEST(ConfigJson, AnyInnerWidthComesBack) {
  ModelConfig config = unusual();
  for (const std::int64_t d_model : {24, 49, 768}) {
    for (std::int64_t d_inner = 1; d_inner < 200; ++d_inner) {
      config.d_model = d_model;
      config.mixer.d_inner = d_inner;
      const auto json = nlohmann::json::parse(write_config_json(config, Layout::kStateSpaces));
      const double expand = json["ssm_cfg"].value("expand", 2.0);
      ASSERT_EQ(static_cast<std::int64_t>(expand * static_cast<double>(d_model)), d_inner);
      ASSERT_EQ(config_from_json(json.dump()).mixer.d_inner, d_inner);
    }
  }
}

TEST(ConfigJson, StateSpacesKeysAreThoseOfItsConfigClass) {
  const std::vector<std::string> known = {"d_model",
                                          "d_intermediate",
                                          "n_layer",
                                          "vocab_size",
                                          "ssm_cfg",
                                          "attn_layer_idx",
                                          "attn_cfg",
                                          "rms_norm",
                                          "residual_in_fp32",
                                          "fused_add_norm",
                                          "pad_vocab_size_multiple",
                                          "tie_embeddings"};
  ModelConfig config = unusual();
  config.norm_eps = 1e-5;
  const auto json = nlohmann::json::parse(write_config_json(config, Layout::kStateSpaces));
  for (const auto& [key, value] : json.items()) EXPECT_EQ(std::count(known.begin(), known.end(), key), 1) << key;
  EXPECT_EQ(json["attn_cfg"]["coluber"]["dropout"], 0.125);
  // what changes the result is a key that the class refuses
  EXPECT_TRUE(nlohmann::json::parse(write_config_json(unusual(), Layout::kStateSpaces)).contains("norm_eps"));
}

TEST(ConfigJson, PublishedFilesOfMamba130m) {
  const ModelConfig config = config_from_json(R"({"d_model": 768, "n_layer": 24, "vocab_size": 50277, "ssm_cfg": {},
      "rms_norm": true, "residual_in_fp32": true, "fused_add_norm": true, "pad_vocab_size_multiple": 8})");
  EXPECT_EQ(config, model_preset("mamba-130m"));
  const auto written = nlohmann::json::parse(write_config_json(config, Layout::kStateSpaces));
  EXPECT_EQ(written.size(), 8u);
  EXPECT_EQ(written["ssm_cfg"], nlohmann::json::object());
  const auto hf = nlohmann::json::parse(write_config_json(config, Layout::kHfMamba));
  EXPECT_EQ(hf["vocab_size"], 50280);
  EXPECT_EQ(hf["intermediate_size"], 1536);
  EXPECT_EQ(hf["expand"].dump(), "2");
  EXPECT_EQ(hf["time_step_rank"], 48);
  EXPECT_TRUE(hf["eos_token_id"].is_null());
}

TEST(ConfigJson, ClassDefaultsOfHuggingFace) {
  const ModelConfig config = config_from_json(R"({"model_type": "mamba"})");
  EXPECT_EQ(config.d_model, 768);
  EXPECT_EQ(config.n_layer, 32);
  EXPECT_EQ(config.padded_vocab_size(), 50280);
  EXPECT_EQ(config.mixer.d_inner, 1536);
  EXPECT_EQ(config.mixer.dt_rank, 48);
  EXPECT_EQ(config.eos_token_id, 0);
  EXPECT_TRUE(config.tie_embeddings);
  EXPECT_TRUE(config.mixer.conv_bias);
}

TEST(ConfigJson, FamilyByKeysWhenModelTypeIsMissing) {
  EXPECT_EQ(config_from_json(R"({"hidden_size": 32, "state_size": 8})").layout, Layout::kHfMamba);
  EXPECT_EQ(config_from_json(R"({"hidden_size": 32, "state_size": 8, "mixer_rms_eps": 1e-6})").layout,
            Layout::kHfFalconMamba);
  EXPECT_EQ(config_from_json(R"({"d_model": 32, "n_layer": 1, "model_type": "mamba"})").layout, Layout::kStateSpaces);
}

TEST(ConfigJson, FalconsExpandIsPassedOver) {
  std::vector<std::string> warnings;
  const ModelConfig config = config_from_json(
      R"({"model_type": "falcon_mamba", "hidden_size": 4096, "expand": 16, "intermediate_size": 8192})", "c.json",
      &warnings);
  EXPECT_EQ(config.mixer.d_inner, 8192);
  EXPECT_EQ(config.mixer.expand, 2);
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("expand 16"), std::string::npos);
  EXPECT_NE(warnings[0].find("8192"), std::string::npos);
}

TEST(ConfigJson, NumbersOfPythonNullsAndLists) {
  std::vector<std::string> warnings;
  const ModelConfig config = config_from_json(
      R"({"model_type": "mamba", "hidden_size": 32.0, "time_step_rank": "auto", "time_step_limit": [0.0, Infinity],
          "intermediate_size": null, "bos_token_id": null, "eos_token_id": [5, 6], "time_step_max": 1})",
      "c.json", &warnings);
  EXPECT_EQ(config.mixer.d_inner, 64);
  EXPECT_EQ(config.mixer.dt_rank, 2);
  EXPECT_EQ(config.bos_token_id, -1);
  EXPECT_EQ(config.eos_token_id, 5);
  EXPECT_EQ(config.pad_token_id, 0);
  EXPECT_EQ(config.mixer.init.dt_max, 1);
  EXPECT_EQ(warnings.size(), 1u);
}

TEST(ConfigJson, LayoutsRefuseWhatTheyCannotSay) {
  const auto refused = [](const std::function<void(ModelConfig&)>& change, Layout layout) {
    ModelConfig config = unusual();
    change(config);
    return refusal([&] { write_config_json(config, layout); });
  };
  EXPECT_NE(refused([](auto& c) { c.norm = NormKind::kLayer; }, Layout::kHfMamba).find("layer norm"),
            std::string::npos);
  EXPECT_NE(refused([](auto& c) { c.bidirectional = true; }, Layout::kHfMamba).find("bidirectional"),
            std::string::npos);
  EXPECT_NE(refused([](auto& c) { c.mixer.norm_dt_B_C = true; }, Layout::kHfMamba).find("norms of dt"),
            std::string::npos);
  EXPECT_NE(refused([](auto& c) { c.mixer.norm_dt_B_C = true; }, Layout::kStateSpaces).find("norms of dt"),
            std::string::npos);
  EXPECT_NE(refused([](auto&) {}, Layout::kHfFalconMamba).find("norms of dt"), std::string::npos);
  EXPECT_NE(refused([](auto& c) { c.d_model = 0; }, Layout::kStateSpaces).find("d_model"), std::string::npos);
}

}  // namespace
}  // namespace coluber::testing
