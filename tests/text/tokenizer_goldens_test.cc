// What other implementations made of the same texts.
#include "text/tokenizer_goldens.h"

#include <gtest/gtest.h>

#include "tests/support/files.h"
#include "tests/text/tokenizers.h"

namespace coluber::testing {
namespace {

// Checked results; unsupported ones (a build without SentencePiece) are counted apart.
struct Counts {
  int passed = 0, unsupported = 0;
};

Counts check(const std::string& name) {
  Counts counts;
  for (const TokenizerGoldenResult& result : check_tokenizer_goldens(golden_path(name), tokenizer_folders())) {
    if (!result.unsupported.empty()) {
      ++counts.unsupported;
      continue;
    }
    EXPECT_TRUE(result.passed) << result.file << " " << result.case_name << "\n" << result.detail;
    counts.passed += result.passed ? 1 : 0;
  }
  return counts;
}

TEST(TokenizerGoldens, TinyFalcon) {
  EXPECT_EQ(check("tokenizer_tiny_falcon.json").passed, 300);
}

TEST(TokenizerGoldens, GptNeox) {
  COLUBER_SKIP_WITHOUT("gpt-neox-20b/tokenizer.json");
  EXPECT_EQ(check("tokenizer_gptneox.json").passed, 300);
  EXPECT_EQ(check("stream_gptneox.json").passed, 20);
}

TEST(TokenizerGoldens, Mistral) {
  COLUBER_SKIP_WITHOUT("mistral-v3/tokenizer.model");
  const Counts texts = check("tokenizer_mistral_v3.json"), streams = check("stream_mistral_v3.json");
  EXPECT_EQ(texts.passed + texts.unsupported, 600);  // each as tokenizer.model and as tokenizer.json
  EXPECT_EQ(streams.passed + streams.unsupported, 10);
  EXPECT_GE(texts.passed, 300);
  if (texts.unsupported > 0) GTEST_SKIP() << "SentencePiece is not in this build; its tokenizer.json was checked";
}

TEST(TokenizerGoldens, SaysWhatIsMissing) {
  const auto results = check_tokenizer_goldens(golden_path("tokenizer_tiny_falcon.json"), {"/nowhere"});
  ASSERT_EQ(results.size(), 300u);
  EXPECT_FALSE(results[0].passed);
  EXPECT_NE(results[0].unsupported.find("tiny-falcon/tokenizer.json"), std::string::npos);
}

TEST(TokenizerGoldens, SaysWhatDiffers) {
  const TemporaryFolder folder;
  write_bytes(folder / "tokenizer_x.json", R"({"tokenizer": "tiny-falcon/tokenizer.json", "vocab": 700, "cases": [
    {"category": "a", "text": "The", "ids": [53], "pieces": ["54"], "decoded": "T"}]})");
  const auto results = check_tokenizer_goldens(folder / "tokenizer_x.json", tokenizer_folders());
  ASSERT_EQ(results.size(), 1u);
  EXPECT_FALSE(results[0].passed);
  EXPECT_EQ(results[0].case_name, "0 a");
  EXPECT_EQ(results[0].detail, "ids: expected 53, got 53 367");
}

}  // namespace
}  // namespace coluber::testing
