// A long text in pieces gives the ids of the whole, with every kind of tokenizer and whatever the text is like.
#include "text/long_text.h"

#include <gtest/gtest.h>

#include "core/json.h"
#include "core/rng.h"
#include "tests/support/files.h"
#include "tests/text/tokenizers.h"

namespace coluber::testing {
namespace {

struct Text {
  std::string name, text;
};

std::string golden_texts(std::string_view between) {
  std::string text;
  for (const char* file : {"tokenizer_gptneox.json", "tokenizer_mistral_v3.json", "tokenizer_tiny_falcon.json"}) {
    const Json golden = read_json_file("test", golden_path(file));
    for (const Json& row : golden.at("cases")) text += row.at("text").get<std::string>() + std::string(between);
  }
  return text;
}

std::string words_of(const std::vector<std::string>& words, std::string_view between, std::size_t bytes) {
  const Rng rng(5, words.size());
  std::string text;
  for (std::uint64_t i = 0; text.size() < bytes; ++i) text += words[rng.below(i, words.size())] + std::string(between);
  return text;
}

std::vector<Text> texts() {
  const std::vector<std::string> english = {"In",      "the",  "beginning", "God",  "created",
                                            "heaven,", "it's", "1611",      "don't"};
  const std::vector<std::string> chinese = {"起初", "神创造", "天地。", "地是", "空虚混沌", "，"};
  return {
      {"goldens by spaces", golden_texts(" ")},
      {"goldens by lines", golden_texts("\n")},
      {"goldens joined", golden_texts("")},
      {"english", words_of(english, " ", 20'000)},
      {"english by lines", words_of(english, "\n", 20'000)},
      {"english, spaces wide", words_of(english, "   ", 20'000)},
      {"chinese", words_of(chinese, "", 20'000)},
      {"genome by lines", words_of({"ACGTTTGACAGGATTACA"}, "\n", 20'000)},
      {"combining marks", words_of({"e\xCC\x81", "o\xCC\x88", "a", "z\xCC\xA3\xCC\x87"}, "", 20'000)},
      {"windows lines", words_of(english, "\r\n", 20'000)},
  };
}

// How many pieces there were.
int expect_ids_of_the_whole(const Tokenizer& tokenizer, const Text& row, std::size_t piece_bytes) {
  EncodeOptions options;
  options.parse_special = false;
  std::vector<std::int32_t> ids;
  int pieces = 0;
  std::size_t before = 0;
  LongTextEncoder(tokenizer, piece_bytes).encode(row.text, [&](std::span<const std::int32_t> part, std::size_t done) {
    ids.insert(ids.end(), part.begin(), part.end());
    EXPECT_GT(done, before);
    before = done;
    ++pieces;
  });
  EXPECT_EQ(before, row.text.size());
  EXPECT_TRUE(ids == tokenizer.encode(row.text, options)) << row.name << " in pieces of " << piece_bytes;
  return pieces;
}

void expect_ids_of_the_whole(const Tokenizer& tokenizer) {
  for (const Text& row : texts()) {
    for (const std::size_t piece_bytes : {100u, 777u, 5000u}) expect_ids_of_the_whole(tokenizer, row, piece_bytes);
  }
  // not because there was only one
  EXPECT_GE(expect_ids_of_the_whole(tokenizer, texts()[3], 100), 100);
  EXPECT_GE(expect_ids_of_the_whole(tokenizer, texts()[4], 100), 50);
}

TEST(LongText, Bytes) {
  expect_ids_of_the_whole(*Tokenizer::bytes());
  EXPECT_EQ(expect_ids_of_the_whole(*Tokenizer::bytes(), {"one word", std::string(10'000, 'a')}, 100), 100);
}

TEST(LongText, TinyFalcon) {
  expect_ids_of_the_whole(*tiny_falcon());
}

TEST(LongText, GptNeox) {
  COLUBER_SKIP_WITHOUT("gpt-neox-20b/tokenizer.json");
  expect_ids_of_the_whole(*Tokenizer::load(find_tokenizer("gpt-neox-20b/tokenizer.json")));
}

TEST(LongText, MistralJson) {
  COLUBER_SKIP_WITHOUT("mistral-v3/tokenizer.json");
  expect_ids_of_the_whole(*Tokenizer::load(find_tokenizer("mistral-v3/tokenizer.json")));
}

TEST(LongText, MistralModel) {
  COLUBER_SKIP_WITHOUT("mistral-v3/tokenizer.model");
  std::shared_ptr<const Tokenizer> tokenizer;
  try {
    tokenizer = Tokenizer::load(find_tokenizer("mistral-v3/tokenizer.model"));
  } catch (const Error& error) {
    ASSERT_EQ(error.code(), ErrorCode::kUnsupported) << error.what();
    GTEST_SKIP() << error.what();
  }
  expect_ids_of_the_whole(*tokenizer);
}

// A token may hold a whole verse: no cut within one.
TEST(LongText, TokensOfSeveralWords) {
  const auto tokenizer =
      Tokenizer::from_json(R"({"added_tokens": [], "model": {"type": "BPE", "merges": ["a Ġ", "aĠ a"],
      "vocab": {"a": 0, "Ġ": 1, "aĠ": 2, "aĠa": 3, "b": 4}},
      "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},
      "decoder": {"type": "ByteLevel"}})");
  expect_ids_of_the_whole(*tokenizer, {"ab", words_of({"a", "b", "a"}, " ", 3000)}, 50);
  EXPECT_EQ(expect_ids_of_the_whole(*tokenizer, {"a", words_of({"a"}, " ", 3000)}, 50), 1);
}

// A run whose tokens depend on where it begins, further away than two sides of a cut are compared.
TEST(LongText, RunsAreNotCut) {
  const auto tokenizer = Tokenizer::from_json(R"({"added_tokens": [], "model": {"type": "BPE", "merges": ["a a"],
      "vocab": {"a": 0, "aa": 1}}, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
      "decoder": {"type": "ByteLevel"}})");
  EXPECT_EQ(expect_ids_of_the_whole(*tokenizer, {"run", std::string(3000, 'a')}, 301), 1);
}

TEST(LongText, SpacePutInFront) {
  const auto tokenizer = Tokenizer::from_json(R"({"added_tokens": [],
      "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
      "model": {"type": "BPE", "merges": ["▁ a", "a b"], "vocab": {"▁": 0, "a": 1, "b": 2, "▁a": 3, "ab": 4, "\n": 5}},
      "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}})");
  EXPECT_GE(expect_ids_of_the_whole(*tokenizer, {"spaces", words_of({"ab", "b", "bba"}, " ", 3000)}, 50), 40);
  EXPECT_GE(expect_ids_of_the_whole(*tokenizer, {"lines", words_of({"ab", "b", "bba"}, "\n", 3000)}, 50), 40);
}

TEST(LongText, EmptyAndShort) {
  EXPECT_EQ(expect_ids_of_the_whole(*tiny_falcon(), {"short", "abc"}, 2), 1);
  int calls = 0;
  LongTextEncoder(*tiny_falcon()).encode("", [&](std::span<const std::int32_t> ids, std::size_t done) {
    EXPECT_TRUE(ids.empty());
    EXPECT_EQ(done, 0u);
    ++calls;
  });
  EXPECT_EQ(calls, 1);
}

}  // namespace
}  // namespace coluber::testing
