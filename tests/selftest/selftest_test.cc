// Everything in tests/goldens/data, and that what is wrong fails.
#include <functional>
#include <set>
#include <utility>

#include "coluber/model.h"
#include "tests/selftest/goldens.h"

namespace coluber::testing {
namespace {

using selftest::CaseResult;
using selftest::matches;
using selftest::Status;

TEST(Matches, PartsAndGlobs) {
  EXPECT_TRUE(matches("scan", "selective_scan.safetensors/one"));
  EXPECT_FALSE(matches("Scan", "selective_scan"));
  EXPECT_TRUE(matches("", "anything"));
  EXPECT_TRUE(matches("*", ""));
  EXPECT_FALSE(matches("?", ""));
  EXPECT_TRUE(matches("a*c", "abbc"));
  EXPECT_FALSE(matches("a*c", "abbcd"));
  EXPECT_TRUE(matches("*/s0?", "laws/scan.safetensors/s05"));
  EXPECT_FALSE(matches("*/s0?", "laws/scan.safetensors/s15"));
  EXPECT_TRUE(matches("a**b*", "ab"));
  EXPECT_TRUE(matches("*aab", "aaaab"));
  EXPECT_TRUE(matches("a?c", "a*c"));
}

struct Expected {
  const char* name;
  const char* only;
  int passes;
};

class GoldenFiles : public ::testing::TestWithParam<Expected> {};

// Each by the reference kernels in f64 and f32 and by the kernels of this machine.
TEST_P(GoldenFiles, AllPass) {
  const std::vector<CaseResult> results = run_folder(goldens_folder(), GetParam().only);
  int passes = 0;
  for (const CaseResult& result : results) {
    if (result.status == Status::kUnsupported) {
      EXPECT_NE(result.reason.find("not there yet"), std::string::npos) << describe(result);
      continue;
    }
    EXPECT_EQ(result.status, Status::kPass) << describe(result);
    ++passes;
    EXPECT_EQ(result.runs.size(), 3u) << describe(result);
    for (const selftest::RunResult& run : result.runs) {
      EXPECT_FALSE(run.worst.tensor.empty()) << describe(result);
      if (run.arithmetic.dtype == DType::kF32) continue;
      EXPECT_LT(run.worst.bound, 6.1e-8) << "1e-12, or an f32 golden's rounding";
    }
  }
  EXPECT_EQ(passes, GetParam().passes);
}

INSTANTIATE_TEST_SUITE_P(All, GoldenFiles,
                         ::testing::Values(Expected{"CausalConv1d", "causal_conv1d.safetensors/*", 17},
                                           Expected{"CausalConv1dLaws", "laws_fp64/causal_conv1d*", 20},
                                           Expected{"SelectiveScan", "selective_scan.safetensors/*", 27},
                                           Expected{"SelectiveScanLaws", "laws_fp64/selective_scan*", 24},
                                           Expected{"Norm", "norm.safetensors/*", 6},
                                           Expected{"Mamba1Block", "mamba1_block*", 5},
                                           Expected{"TrainingTrace", "training_trace*", 1},
                                           Expected{"LmStateSpaces", "lm_state_spaces*", 2},
                                           Expected{"LmTransformers", "lm_transformers*", 3}),
                         [](const auto& param) { return std::string(param.param.name); });

TEST(Goldens, ModelsThatMustPass) {
  std::set<std::string> passed;
  for (const CaseResult& result : run_folder(goldens_folder(), "language_model")) {
    if (result.status == Status::kPass) passed.insert(result.case_name);
  }
  EXPECT_EQ(passed, (std::set<std::string>{"ss_mamba1", "ss_mamba1_layernorm_untied", "hf_mamba", "hf_mamba_sharded",
                                           "hf_falcon_mamba"}));
}

TEST(Goldens, TheSameWeightsFromANewerTorch) {
  const std::vector<CaseResult> results = run_folder(goldens_folder(), "checkpoint");
  ASSERT_EQ(results.size(), 1u);
  EXPECT_EQ(results[0].status, Status::kPass) << describe(results[0]);
  EXPECT_EQ(results[0].case_name, "ss_mamba1_torch2 equals ss_mamba1");
}

// The one result of a folder in which ss_mamba1_torch2 is what `make` writes there.
CaseResult compare_with_ss_mamba1(const std::function<void(const std::string& folder)>& make) {
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder / "checkpoints");
  std::filesystem::create_directory_symlink(goldens_folder() + "/checkpoints/ss_mamba1",
                                            folder / "checkpoints/ss_mamba1");
  make(folder / "checkpoints/ss_mamba1_torch2");
  SmallGolden().write(folder / "small.safetensors");
  const std::vector<CaseResult> results = run_folder(folder.path(), "checkpoint");
  EXPECT_EQ(results.size(), 1u);
  return results.at(0);
}

TEST(CheckpointPairs, DifferInOneElement) {
  const auto save = [](double factor) {
    return compare_with_ss_mamba1([factor](const std::string& folder) {
      const Model model = Model::load(goldens_folder() + "/checkpoints/ss_mamba1");
      const Parameter changed = model.parameters().at(5);
      changed.var.set_value(changed.var.value().clone());
      const Tensor flat = changed.var.value().reshape({changed.var.value().numel()});
      flat.set({7}, flat.at({7}) * factor);
      model.save(folder);
    });
  };
  EXPECT_EQ(save(1).status, Status::kPass) << describe(save(1));
  const CaseResult result = save(2);  // twice a float is another exponent: one or two bytes
  EXPECT_EQ(result.status, Status::kFail) << describe(result);
  EXPECT_TRUE(result.worst.error == 1 || result.worst.error == 2) << describe(result);
  EXPECT_FALSE(result.worst.tensor.empty());
}

TEST(CheckpointPairs, AnotherModelFails) {
  const CaseResult result = compare_with_ss_mamba1([](const std::string& folder) {
    std::filesystem::copy(goldens_folder() + "/checkpoints/ss_mamba1_layernorm_untied", folder);
  });
  EXPECT_EQ(result.status, Status::kFail) << describe(result);
}

TEST(TextGoldens, PassWhereTheTokenizerIsBeside) {
  const std::vector<CaseResult> results = run_folder(goldens_folder(), "tokenizer_tiny_falcon*");
  EXPECT_EQ(results.size(), 300u);
  for (const CaseResult& result : results) {
    EXPECT_EQ(result.status, Status::kPass) << describe(result);
    EXPECT_EQ(result.op, "tokenizer");
    EXPECT_TRUE(result.runs.empty());
  }
}

TEST(TextGoldens, WrongOnesFailAndMissingTokenizersAreNamed) {
  const TemporaryFolder folder;
  std::filesystem::create_directories(folder / "goldens");
  const std::string text = R"({"tokenizer": "tiny-falcon/tokenizer.json", "vocab": 700, "cases": [
    {"category": "a", "text": "The", "ids": [53], "pieces": ["54"], "decoded": "T"}]})";
  write_bytes(folder / "goldens/tokenizer_x.json", text);
  std::vector<CaseResult> results = run_folder(folder / "goldens");
  ASSERT_EQ(results.size(), 1u);
  EXPECT_EQ(results[0].status, Status::kUnsupported) << describe(results[0]);
  EXPECT_NE(results[0].reason.find("tiny-falcon/tokenizer.json"), std::string::npos) << results[0].reason;

  std::filesystem::create_directory_symlink(goldens_folder() + "/tokenizers", folder / "tokenizers");
  results = run_folder(folder / "goldens");
  ASSERT_EQ(results.size(), 1u);
  EXPECT_EQ(results[0].status, Status::kFail) << describe(results[0]);
  EXPECT_EQ(results[0].reason, "[tokenizer] ids: expected 53, got 53 367");

  write_bytes(folder / "goldens/tokenizer_x.json", text.substr(0, 60));
  results = run_folder(folder / "goldens");
  ASSERT_EQ(results.size(), 1u);
  EXPECT_EQ(results[0].status, Status::kFail) << describe(results[0]);
}

// Options are read: with others than the golden was made with, the trace is another.
TEST(TrainingTrace, FollowsEveryOption) {
  const SafetensorsFile file = SafetensorsFile::open(goldens_folder() + "/training_trace.safetensors");
  for (const auto& [from, to] :
       {std::pair("\"clip\": 1.0", "\"clip\": 0.1"), std::pair("\"weight_decay\": 0.1", "\"weight_decay\": 0.2"),
        std::pair("\"betas\": [0.9, 0.95]", "\"betas\": [0.9, 0.96]"),
        std::pair("\"betas\": [0.9, 0.95]", "\"betas\": [0.8, 0.95]"), std::pair("\"eps\": 1e-08", "\"eps\": 1e-06"),
        std::pair("\"lr_min\": 0.0004", "\"lr_min\": 0.0005"),
        std::pair("\"warmup_steps\": 5", "\"warmup_steps\": 6")}) {
    StringMap metadata = file.metadata();
    std::string& options = metadata.at("case/mamba1");
    const std::size_t at = options.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    options.replace(at, std::string(from).size(), to);
    const TemporaryFolder folder;
    write_safetensors(folder / "training_trace.safetensors", file.tensors(), metadata);
    const std::vector<CaseResult> results = run_folder(folder.path(), "*/mamba1");
    ASSERT_EQ(results.size(), 1u);
    EXPECT_EQ(results[0].status, Status::kFail) << to << ": " << describe(results[0]);
  }
}

struct Wrong {
  const char* name;
  const char* file;
  const char* case_name;
  const char* tensor;
  double factor;
};

class WrongGolden : public ::testing::TestWithParam<Wrong> {};

TEST_P(WrongGolden, Fails) {
  const TemporaryFolder folder;
  const Wrong& wrong = GetParam();
  std::filesystem::create_directories(folder / "goldens");
  std::filesystem::create_directory_symlink(goldens_folder() + "/checkpoints", folder / "checkpoints");
  const std::string file = std::string(wrong.file) + ".safetensors";
  const std::string copy = folder / ("goldens/" + std::filesystem::path(file).filename().string());
  write_changed_copy(goldens_folder() + "/" + file, copy, std::string(wrong.case_name) + "/" + wrong.tensor,
                     wrong.factor);
  const std::vector<CaseResult> results = run_folder(folder / "goldens", std::string("*/") + wrong.case_name);
  ASSERT_EQ(results.size(), 1u);
  EXPECT_EQ(results[0].status, Status::kFail) << describe(results[0]);
  EXPECT_EQ(results[0].worst.tensor, wrong.tensor) << describe(results[0]);
  EXPECT_GT(results[0].worst.error, results[0].worst.bound);
}

// Off by little more than the rounding of what is stored; token ids by one.
INSTANTIATE_TEST_SUITE_P(
    Tensors, WrongGolden,
    ::testing::Values(Wrong{"ConvOut", "causal_conv1d", "b2_d8_l17_w4_bias_silu", "out/out", 1 + 1e-10},
                      Wrong{"ConvGradWeight", "causal_conv1d", "b2_d8_l17_w4_bias_silu", "grad/weight", 1 - 1e-10},
                      Wrong{"ScanLastState", "selective_scan", "01_b2_d3_l7_n5_Bv_Cv", "out/last_state", 1 + 1e-8},
                      Wrong{"ScanGradA", "selective_scan", "25_b1_d4_l20_n3_Bg2_Cg2_init_cplx", "grad/A", 1 + 1e-8},
                      Wrong{"ScanLaws", "laws_fp64/selective_scan", "s05", "out/y", 1 + 1e-8},
                      Wrong{"NormGradX", "norm", "3_layer_4x130", "grad/x", 1 + 1e-8},
                      Wrong{"BlockOut", "mamba1_block", "0_b2_l11_m16", "out/out", 1 + 1e-8},
                      Wrong{"LmLoss", "lm_state_spaces", "ss_mamba1", "out/loss", 1 + 1e-10},
                      Wrong{"LmGenerated", "lm_state_spaces", "ss_mamba1", "out/generated", 2},
                      Wrong{"LmLogits", "lm_transformers", "hf_falcon_mamba", "out/logits", 1 + 1e-7},
                      Wrong{"TraceRate", "training_trace", "mamba1", "out/lr", 1 + 1e-8}),
    [](const auto& row) { return std::string(row.param.name); });

}  // namespace
}  // namespace coluber::testing
