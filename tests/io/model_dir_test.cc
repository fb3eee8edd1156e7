// Model folders: which files are read, and who is right when config.json and the tensors differ.
#include "io/model_dir.h"

#include <nlohmann/json.hpp>

#include "io/safetensors.h"
#include "io/torch_bin.h"
#include "tests/support/files.h"
#include "tests/support/refusals.h"
#include "tests/support/tensors.h"

namespace coluber::testing {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

// A copy of a golden checkpoint to be spoilt.
class Copy {
 public:
  explicit Copy(const char* name) { fs::copy(golden_path(join("checkpoints/", name)), folder_.path()); }

  ModelDir open() const { return open_model_dir(folder_.path()); }
  std::string operator/(std::string_view name) const { return folder_ / name; }
  void set(const std::function<void(Json&)>& change, const char* file = "config.json") const {
    Json json = Json::parse(read_bytes(folder_ / file));
    change(json);
    write_bytes(folder_ / file, json.dump());
  }
  void set_tensors(const std::function<void(TensorMap&)>& change) const {
    TensorMap tensors;
    for (const auto& [name, tensor] : open().tensors) tensors.emplace(name, tensor.clone());
    change(tensors);
    fs::remove(folder_ / "pytorch_model.bin");
    write_safetensors(folder_ / "model.safetensors", tensors);
  }
  void remove(std::string_view name) const { fs::remove(folder_ / name); }
  std::string path() const { return folder_.path(); }

 private:
  TemporaryFolder folder_;
};

TEST(ModelDir, TensorsDecideWhereConfigSaysNothing) {
  const Copy copy("ss_mamba1_layernorm_untied");
  copy.set([](Json& json) {
    json["ssm_cfg"] = Json::object();
    json.erase("rms_norm");
    json.erase("pad_vocab_size_multiple");
    json["vocab_size"] = 90;  // 96 with a multiple of 8, and nothing says 8
  });
  const ModelDir dir = copy.open();
  EXPECT_EQ(dir.config.mixer.d_state, 8);
  EXPECT_EQ(dir.config.norm, NormKind::kLayer);
  EXPECT_EQ(dir.config.padded_vocab_size(), 96);
  ASSERT_EQ(dir.warnings.size(), 2u);
  EXPECT_NE(dir.warnings[0].find("d_state"), std::string::npos);
  EXPECT_NE(dir.warnings[0].find("16"), std::string::npos);
  EXPECT_NE(dir.warnings[0].find("8 (columns of backbone.layers.0.mixer.A_log)"), std::string::npos);
}

TEST(ModelDir, PaddingOfTheVocabularyByAnotherMultiple) {
  const Copy copy("ss_mamba1_layernorm_untied");
  copy.set([](Json& json) {
    json.erase("pad_vocab_size_multiple");
    json["vocab_size"] = 70;  // 72 with a multiple of 8; 96 with 32
  });
  const ModelDir dir = copy.open();
  EXPECT_EQ(dir.config.vocab_size, 70);
  EXPECT_EQ(dir.config.padded_vocab_size(), 96);
  EXPECT_EQ(dir.warnings.size(), 1u);
}

TEST(ModelDir, WithoutModelTypeAndWithAPrefix) {
  const Copy copy("hf_mamba");
  copy.set([](Json& json) {
    json.erase("model_type");
    json.erase("architectures");
  });
  copy.set_tensors([](TensorMap& tensors) {
    TensorMap prefixed;
    for (const auto& [name, tensor] : tensors) prefixed.emplace("model." + name, tensor);
    tensors = prefixed;
  });
  const ModelDir dir = copy.open();
  EXPECT_EQ(dir.config.layout, CheckpointLayout::kHfMamba);
  EXPECT_EQ(dir.tensors.count("model.backbone.embeddings.weight"), 1u);
}

TEST(ModelDir, FalconsExpandBesideItsIntermediateSize) {
  const Copy copy("hf_falcon_mamba");
  copy.set([](Json& json) { json["expand"] = 16; });
  const ModelDir dir = copy.open();
  EXPECT_EQ(dir.config.mixer.d_inner, 64);
  ASSERT_EQ(dir.warnings.size(), 1u);
  EXPECT_NE(dir.warnings[0].find("expand 16"), std::string::npos);
}

TEST(ModelDir, ShardsOfBinFilesAndOtherNames) {
  const Copy copy("hf_mamba");
  TensorMap first, second;
  Json map = Json::object();
  for (const auto& [name, tensor] : copy.open().tensors) {
    const bool early = name < "backbone.layers.1";
    (early ? first : second).emplace(name, tensor.clone());
    map[name] = early ? "one.bin" : "two.bin";
  }
  copy.remove("model.safetensors");
  write_torch_bin(copy / "one.bin", first);
  write_torch_bin(copy / "two.bin", second);
  write_bytes(copy / "pytorch_model.bin.index.json", Json{{"weight_map", map}}.dump());
  EXPECT_EQ(copy.open().files, (std::vector<std::string>{"one.bin", "two.bin"}));

  const Copy single("hf_mamba");
  fs::rename(single / "model.safetensors", single / "weights.safetensors");
  EXPECT_EQ(single.open().files, std::vector<std::string>{"weights.safetensors"});
}

TEST(ModelDir, WeightsInTwoFormats) {
  const Copy copy("ss_mamba1");
  TensorMap tensors;
  for (const auto& [name, tensor] : copy.open().tensors) tensors.emplace(name, tensor.clone());
  write_safetensors_sharded(copy.path(), tensors, 20'000);
  const ModelDir dir = copy.open();
  EXPECT_GT(dir.files.size(), 3u);
  ASSERT_EQ(dir.warnings.size(), 1u);
  EXPECT_NE(dir.warnings[0].find("pytorch_model.bin"), std::string::npos);
  EXPECT_EQ(dir.tensors.size(), 33u);
}

TEST(ModelDir, OwnShardsReadBack) {
  const Copy copy("hf_falcon_mamba");
  const ModelDir before = copy.open();
  write_safetensors_sharded(copy.path(), before.tensors, 10'000, {{"format", "pt"}});
  const ModelDir after = copy.open();
  EXPECT_GT(after.files.size(), 2u);
  EXPECT_EQ(after.config, before.config);
  ASSERT_EQ(after.tensors.size(), before.tensors.size());
  for (const auto& [name, tensor] : before.tensors) EXPECT_TRUE(same_bits(tensor, after.tensors.at(name))) << name;
}

// --- bad input -------------------------------------------------------------------------------------------------------
using Spoil = std::function<void(const Copy&)>;

RefusalCase bad_dir(const char* name, const char* golden, ErrorCode code, std::vector<std::string> words,
                    const Spoil& spoil) {
  return {name, code, std::move(words), [golden, spoil] {
            const Copy copy(golden);
            spoil(copy);
            copy.open();
          }};
}
Spoil set(const std::string& key, const Json& value) {
  return [key, value](const Copy& copy) { copy.set([&](Json& json) { json[key] = value; }); };
}
Spoil drop(const std::string& tensor) {
  return [tensor](const Copy& copy) { copy.set_tensors([&](TensorMap& tensors) { tensors.erase(tensor); }); };
}
constexpr ErrorCode kCorrupt = ErrorCode::kCorruptFile, kNever = ErrorCode::kUnsupported;
const char* const kSs = "ss_mamba1";
const char* const kHf = "hf_mamba";

// config.json against tensors: both numbers and both sources.
std::vector<RefusalCase> disagreements() {
  const std::string layer = "backbone.layers.0.mixer.";
  return {
      bad_dir("DModel", kSs, kCorrupt,
              {"d_model", "48 (config.json: d_model)", "32 (columns of backbone.embedding.weight)"},
              set("d_model", 48)),
      bad_dir("NLayer", kSs, kCorrupt, {"4 (config.json: n_layer)", "3 (layers"}, set("n_layer", 4)),
      bad_dir("Vocabulary", kSs, kCorrupt, {"112", "vocab_size 107", "multiple of 8", "104 (rows"},
              set("vocab_size", 107)),
      bad_dir("VocabularyIsNotPaddedInHuggingFace", kHf, kCorrupt, {"113 (config.json: vocab_size 113", "120 (rows"},
              set("vocab_size", 113)),
      bad_dir("DState", kSs, kCorrupt, {"32 (config.json: ssm_cfg.d_state)", "16 (columns of " + layer + "A_log)"},
              set("ssm_cfg", {{"d_state", 32}})),
      bad_dir("StateSize", kHf, kCorrupt, {"8 (config.json: state_size)", "16 (columns"}, set("state_size", 8)),
      bad_dir("DConv", kSs, kCorrupt, {"3 (config.json: ssm_cfg.d_conv)", "4 (last axis"},
              set("ssm_cfg", {{"d_conv", 3}})),
      bad_dir("DtRank", kHf, kCorrupt,
              {"5 (config.json: time_step_rank)", "2 (columns of " + layer + "dt_proj.weight)"},
              set("time_step_rank", 5)),
      bad_dir("Expand", kSs, kCorrupt,
              {"96 (expand 3 times d_model 32)", "ssm_cfg.expand", "64 (columns of " + layer + "out_proj.weight)"},
              set("ssm_cfg", {{"expand", 3}})),
      bad_dir("IntermediateSize", "hf_falcon_mamba", kCorrupt, {"128 (config.json: intermediate_size)", "64 (columns"},
              set("intermediate_size", 128)),
      bad_dir(
          "ExpandWithoutIntermediateSize", "hf_falcon_mamba", kCorrupt, {"512", "expand", "64 (columns"},
          [](const Copy& copy) { copy.set([](Json& json) { json["expand"] = 16, json.erase("intermediate_size"); }); }),
      bad_dir("Bias", kHf, kCorrupt, {"use_bias true", "there is no tensor " + layer + "in_proj.bias"},
              set("use_bias", true)),
      bad_dir("ConvBias", kHf, kCorrupt, {"use_conv_bias false", "there is a tensor " + layer + "conv1d.bias"},
              set("use_conv_bias", false)),
      bad_dir("RmsNorm", "ss_mamba1_layernorm_untied", kCorrupt,
              {"rms_norm true", "there is a tensor backbone.norm_f.bias"}, set("rms_norm", true)),
      bad_dir("LayerNorm", kSs, kCorrupt, {"rms_norm false", "there is no tensor backbone.norm_f.bias"},
              set("rms_norm", false)),
      bad_dir("Bidirectional", kSs, kCorrupt, {"bidirectional true", "conv1d_b"}, set("bidirectional", true)),
      bad_dir("UntiedWithoutHead", kHf, ErrorCode::kNotFound, {"lm_head.weight", "tie_word_embeddings is false"},
              set("tie_word_embeddings", false)),
      bad_dir("UnpaddedVocabulary", kHf, kCorrupt, {"unpadded_vocab_size 100", "multiple of 1", "120"},
              set("unpadded_vocab_size", 100)),
  };
}

std::vector<RefusalCase> bad_configs() {
  const auto config = [](const std::string& text) {
    return [text](const Copy& copy) { write_bytes(copy / "config.json", text); };
  };
  return {
      bad_dir("ConfigMissing", kSs, ErrorCode::kNotFound, {"config.json"},
              [](const Copy& copy) { copy.remove("config.json"); }),
      bad_dir("ConfigEmpty", kSs, kCorrupt, {"config.json", "0 bytes"}, config("")),
      bad_dir("ConfigCut", kSs, kCorrupt, {"config.json: line 2, column 10"}, config("{\"d_model\": 32,\n\"n_layer\"")),
      bad_dir("ConfigIsAList", kSs, kCorrupt, {"JSON object"}, config("[1]")),
      bad_dir("ConfigOfNobody", kSs, kNever, {"model_type", "d_model"}, config("{}")),
      bad_dir("DModelIsAString", kSs, kCorrupt, {"d_model", "a whole number", "\"32\""}, set("d_model", "32")),
      bad_dir("DModelIsAFraction", kSs, kCorrupt, {"d_model", "32.5"}, set("d_model", 32.5)),
      bad_dir("DModelIsHuge", kSs, kCorrupt, {"d_model", "a whole number"}, set("d_model", 18446744073709551615u)),
      bad_dir("DModelIsNegative", kSs, kCorrupt, {"d_model", "-32"}, set("d_model", -32)),
      bad_dir("VocabularyIsZero", kSs, kCorrupt, {"config.json", "vocab_size", "0"}, set("vocab_size", 0)),
      bad_dir("MultipleIsZero", kSs, kCorrupt, {"config.json", "pad_vocab_size_multiple"},
              set("pad_vocab_size_multiple", 0)),
      bad_dir("EpsIsNaN", kHf, kCorrupt, {"norm_eps", "nan"},
              [](const Copy& copy) {
                std::string text = read_bytes(copy / "config.json");
                text.replace(text.find("1e-05"), 5, "NaN");
                write_bytes(copy / "config.json", text);
              }),
      bad_dir("FlagIsANumber", kSs, kCorrupt, {"rms_norm", "true or false", "1"}, set("rms_norm", 1)),
      bad_dir("SsmCfgIsAList", kSs, kCorrupt, {"ssm_cfg", "an object"}, set("ssm_cfg", Json::array())),
      bad_dir("DtRankIsAWord", kHf, kCorrupt, {"time_step_rank", "auto", "\"big\""}, set("time_step_rank", "big")),
      bad_dir("ModelTypeIsANumber", kHf, kCorrupt, {"model_type", "a string"}, set("model_type", 2)),
      bad_dir("Mamba2ByModelType", kHf, kNever, {"model_type", "mamba2"}, set("model_type", "mamba2")),
      bad_dir("HybridByModelType", kHf, kNever, {"jamba"}, set("model_type", "jamba")),
      bad_dir("Mamba2ByLayer", kSs, kNever, {"ssm_cfg.layer", "Mamba2"}, set("ssm_cfg", {{"layer", "Mamba2"}})),
      bad_dir("UnknownMixerArgument", kSs, kNever, {"ssm_cfg", "headdim"}, set("ssm_cfg", {{"headdim", 64}})),
      bad_dir("AttentionLayers", kSs, kNever, {"attn_layer_idx", "[1]"}, set("attn_layer_idx", {1})),
      bad_dir("Mlps", kSs, kNever, {"d_intermediate", "128"}, set("d_intermediate", 128)),
      bad_dir("OtherActivation", kHf, kNever, {"hidden_act", "gelu"}, set("hidden_act", "gelu")),
      bad_dir("Codestral", kHf, kNever, {"Mamba-2"}, config(R"({"dim": 4096, "n_layers": 64, "model_type": "mamba"})")),
      bad_dir("ParamsJson", kHf, kNever, {"params.json", "Mamba-2"},
              [](const Copy& copy) { fs::rename(copy / "config.json", copy / "params.json"); }),
  };
}

std::vector<RefusalCase> bad_weights() {
  const auto cut = [](const char* file) {
    return [file](const Copy& copy) { fs::resize_file(copy / file, fs::file_size(copy / file) / 2); };
  };
  const std::string layer = "backbone.layers.0.mixer.";
  return {
      bad_dir("NoWeights", kSs, ErrorCode::kNotFound, {"pytorch_model.bin"},
              [](const Copy& copy) { copy.remove("pytorch_model.bin"); }),
      bad_dir("OnlyGguf", kSs, ErrorCode::kNotFound, {"GGUF"},
              [](const Copy& copy) { fs::rename(copy / "pytorch_model.bin", copy / "model.gguf"); }),
      bad_dir("BinCut", kSs, kCorrupt, {"pytorch_model.bin", "interrupted"}, cut("pytorch_model.bin")),
      bad_dir("SafetensorsCut", kHf, kCorrupt, {"model.safetensors", "interrupted"}, cut("model.safetensors")),
      bad_dir("NoEmbedding", kHf, kCorrupt, {"backbone.embedding.weight", "none"}, drop("backbone.embeddings.weight")),
      bad_dir("NoALog", kSs, kCorrupt, {layer + "A_log"}, drop(layer + "A_log")),
      bad_dir("LayerMissing", kSs, kCorrupt, {"layers 0 to 2", "no layer 1"},
              [](const Copy& copy) {
                copy.set_tensors([](TensorMap& t) {
                  std::erase_if(t, [](auto& x) { return x.first.starts_with("backbone.layers.1."); });
                });
              }),
      bad_dir("LayerWithoutNumber", kSs, kCorrupt, {"backbone.layers.x.norm"},
              [](const Copy& copy) {
                copy.set_tensors(
                    [](TensorMap& t) { t.emplace("backbone.layers.x.norm", Tensor::zeros({1}, DType::kF32)); });
              }),
      bad_dir("WrongRank", kSs, kCorrupt, {layer + "conv1d.weight", "3 axes", "(64, 4)"},
              [layer](const Copy& copy) {
                copy.set_tensors([&](TensorMap& t) {
                  t[layer + "conv1d.weight"] = Tensor::zeros({64, 4}, DType::kF32);
                });
              }),
      bad_dir("XProjDisagrees", kSs, kCorrupt, {"x_proj", "34", "40"},
              [layer](const Copy& copy) {
                copy.set_tensors([&](TensorMap& t) {
                  t[layer + "x_proj.weight"] = Tensor::zeros({40, 64}, DType::kF32);
                });
              }),
      bad_dir("Mamba2ByTensors", kSs, kNever, {"Mamba-2"},
              [layer](const Copy& copy) {
                copy.set_tensors([&](TensorMap& t) { t.emplace(layer + "dt_bias", Tensor::zeros({4}, DType::kF32)); });
              }),
      bad_dir("OtherModel", kSs, kNever, {"backbone.layers"},
              [](const Copy& copy) {
                copy.set_tensors([](TensorMap& t) {
                  t = {{"transformer.wte.weight", Tensor::zeros({4, 4}, DType::kF32)}};
                });
              }),
      {"FolderMissing", ErrorCode::kNotFound, {"/nowhere", "no such folder"}, [] { open_model_dir("/nowhere"); }},
      {"FileInsteadOfFolder",
       ErrorCode::kInvalidArgument,
       {"a file", "folder"},
       [] { open_model_dir(golden_path("checkpoints/hf_mamba/model.safetensors")); }},
  };
}

std::vector<RefusalCase> bad_indices() {
  const char* const golden = "hf_mamba_sharded";
  const char* const index = "model.safetensors.index.json";
  const auto map = [index](const std::string& tensor, const Json& shard) {
    return [=](const Copy& copy) { copy.set([&](Json& json) { json["weight_map"][tensor] = shard; }, index); };
  };
  const std::string norm = "backbone.norm_f.weight", second = "model-00002-of-00004.safetensors";
  return {
      bad_dir("IndexIsCut", golden, kCorrupt, {index, "line"},
              [index](const Copy& copy) { fs::resize_file(copy / index, 100); }),
      bad_dir("IndexWithoutMap", golden, kCorrupt, {"weight_map"},
              [index](const Copy& copy) { write_bytes(copy / index, "{}"); }),
      bad_dir("ShardMissing", golden, ErrorCode::kNotFound, {index, second},
              [second](const Copy& copy) { copy.remove(second); }),
      bad_dir("IndexMissing", golden, ErrorCode::kNotFound, {"4 files", "no index"},
              [index](const Copy& copy) { copy.remove(index); }),
      bad_dir("TensorInAnotherShard", golden, kCorrupt, {norm, second, "model-00004"}, map(norm, second)),
      bad_dir("TensorNotInItsShard", golden, kCorrupt, {"more.weight", "no such tensor"}, map("more.weight", second)),
      bad_dir("TensorNotInTheIndex", golden, kCorrupt, {norm, "model-00004"},
              [=](const Copy& copy) { copy.set([&](Json& json) { json["weight_map"].erase(norm); }, index); }),
      bad_dir("ShardOutsideTheFolder", golden, kCorrupt, {"same folder", "../secret"},
              map(norm, "../secret.safetensors")),
      bad_dir("ShardIsANumber", golden, kCorrupt, {norm, "name of a file"}, map(norm, 3)),
  };
}

INSTANTIATE_TEST_SUITE_P(Disagreement, Refusals, ::testing::ValuesIn(disagreements()), refusal_name);
INSTANTIATE_TEST_SUITE_P(BadConfig, Refusals, ::testing::ValuesIn(bad_configs()), refusal_name);
INSTANTIATE_TEST_SUITE_P(BadWeights, Refusals, ::testing::ValuesIn(bad_weights()), refusal_name);
INSTANTIATE_TEST_SUITE_P(BadIndex, Refusals, ::testing::ValuesIn(bad_indices()), refusal_name);

}  // namespace
}  // namespace coluber::testing
