// Vocabularies that were learned: what they hold, that nothing of a text is lost, and that the same text gives the
// same.
#include "text/train_tokenizer.h"

#include <gtest/gtest.h>

#include <set>

#include "core/json.h"
#include "core/rng.h"
#include "tests/support/files.h"
#include "tests/support/refusals.h"

namespace coluber::testing {
namespace {

std::string english(std::size_t lines = 400) {
  const std::vector<std::string> words = {"In",       "the",   "beginning", "God",     "created", "heaven",
                                          "and",      "earth", "was",       "without", "form",    "void",
                                          "darkness", "upon",  "face",      "deep",    "1611"};
  const Rng rng(7, 0);
  std::string text;
  for (std::uint64_t i = 0; i < 10 * lines; ++i)
    text += words[rng.below(i, words.size())] + (i % 10 == 9 ? ".\n" : i % 4 == 3 ? ", " : " ");
  return text;
}

Corpus corpus_of(const TemporaryFolder& folder, const std::string& text) {
  write_bytes(folder / "text.txt", text);
  return Corpus::open({folder / "text.txt"});
}

std::shared_ptr<const Tokenizer> bpe_of(const std::string& text, const TokenizerTraining& options) {
  const TemporaryFolder folder;
  return train_bpe(corpus_of(folder, text), options);
}

TokenizerTraining with_vocab(std::int64_t size) {
  TokenizerTraining options;
  options.vocab_size = size;
  return options;
}

std::string every_byte() {
  std::string bytes;
  for (int first = 0; first < 256; ++first) bytes += {static_cast<char>(first), static_cast<char>(255 - first), ' '};
  return bytes;
}

TEST(TrainBpe, IdsAreEndOfTextBytesAndMerges) {
  const auto tokenizer = bpe_of(english(), with_vocab(330));
  EXPECT_EQ(tokenizer->vocab_size(), 330);
  EXPECT_EQ(tokenizer->kind(), TokenizerKind::kBpe);
  EXPECT_EQ(tokenizer->eos_id(), 0);
  EXPECT_EQ(tokenizer->token_piece(0), "<|endoftext|>");
  EXPECT_TRUE(tokenizer->is_special(0));
  for (std::int32_t byte = 0; byte < 256; ++byte)
    EXPECT_EQ(tokenizer->token_bytes(1 + byte), std::string(1, static_cast<char>(byte)));
  std::set<std::string> learned;
  for (std::int32_t id = 257; id < 330; ++id) learned.insert(tokenizer->token_bytes(id));
  EXPECT_EQ(learned.size(), 73u);
  EXPECT_EQ(learned.count(" heaven"), 1u);
}

TEST(TrainBpe, LosesNothing) {
  const auto tokenizer = bpe_of(english(), with_vocab(400));
  EXPECT_TRUE(tokenizer->lossless());
  for (const std::string& text :
       {english(50), every_byte(), std::string("e\xCC\x81 \xEF\xAC\x81  \r\n\t<|endoftext|>")})
    EXPECT_EQ(tokenizer->decode_bytes(tokenizer->encode(text)), text);
  EXPECT_LT(tokenizer->encode(english()).size(), english().size() / 3);
}

TEST(TrainBpe, TheSameTextGivesTheSameFile) {
  const TemporaryFolder folder;
  std::string files[2];
  for (std::string& file : files) {
    bpe_of(english(), with_vocab(320))->save(folder / "tokenizer.json");
    file = read_bytes(folder / "tokenizer.json");
  }
  EXPECT_EQ(files[0], files[1]);
  const Json json = Json::parse(files[0]);
  EXPECT_EQ(json.at("model").at("vocab").size(), 320u);
  EXPECT_EQ(json.at("model").at("merges").size(), 320u - 257);
  EXPECT_EQ(Tokenizer::load(folder / "tokenizer.json")->encode(english()),
            bpe_of(english(), with_vocab(320))->encode(english()));
}

TEST(TrainBpe, SmallTextsGiveSmallerVocabularies) {
  TokenizerTraining options = with_vocab(1000);
  EXPECT_EQ(bpe_of("abab abab", options)->vocab_size(), 257 + 2);  // "ab", "abab"; " abab" comes once
  options.min_count = 1;
  EXPECT_EQ(bpe_of("abab abab", options)->vocab_size(), 257 + 3);
  EXPECT_EQ(bpe_of("x", options)->vocab_size(), 257);
}

TEST(TrainBpe, LooksAtTheFrontOnly) {
  TokenizerTraining options = with_vocab(300);
  options.max_bytes = 8;
  const auto tokenizer = bpe_of("aaaabbbbccccddddccccdddd", options);
  EXPECT_EQ(tokenizer->encode("aabb").size(), 2u);
  EXPECT_EQ(tokenizer->encode("ccdd").size(), 4u);
}

TEST(TrainBpe, AnotherNameForEndOfText) {
  TokenizerTraining options = with_vocab(300);
  options.end_of_text = "</s>";
  const auto tokenizer = bpe_of(english() + "</s></s></s>", options);
  EXPECT_EQ(tokenizer->eos_id(), 0);
  EXPECT_EQ(tokenizer->token_id("</s>"), 0);
}

TEST(TrainBpe, ReportsProgressToTheEnd) {
  TokenizerTraining options = with_vocab(1000);
  std::vector<double> shares;
  options.progress = [&](double share, const std::string& doing) {
    EXPECT_FALSE(doing.empty());
    shares.push_back(share);
  };
  bpe_of(english(60'000), options);
  ASSERT_GE(shares.size(), 3u);
  EXPECT_TRUE(std::is_sorted(shares.begin(), shares.end()));
  EXPECT_EQ(shares.back(), 1);
}

// Nothing where this build is without SentencePiece.
std::shared_ptr<const Tokenizer> pieces_of(const std::string& text, std::int64_t vocab_size, const std::string& type) {
  const TemporaryFolder folder;
  try {
    return train_sentencepiece(corpus_of(folder, text), with_vocab(vocab_size), type);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUnsupported) throw;
    return nullptr;
  }
}

TEST(TrainSentencePiece, BothTypesLearnPiecesAndLoseNothing) {
  for (const char* type : {"bpe", "unigram"}) {
    const auto tokenizer = pieces_of(english(), 400, type);
    if (!tokenizer) GTEST_SKIP() << "SentencePiece is not in this build";
    EXPECT_EQ(tokenizer->kind(), TokenizerKind::kSentencePiece);
    EXPECT_LE(tokenizer->vocab_size(), 400);
    EXPECT_GT(tokenizer->vocab_size(), 290);
    EXPECT_TRUE(tokenizer->token_id("\n").has_value());
    EXPECT_TRUE(tokenizer
                    ->token_id("\xE2\x96\x81"
                               "heaven")
                    .has_value());
    for (const std::string& text : {english(50), std::string("  two  spaces\n\n\tand \xE2\x82\xAC\xF0\x9F\x98\x80 \n")})
      EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
    EXPECT_LT(tokenizer->encode(english()).size(), english().size() / 2);
    const TemporaryFolder folder;
    tokenizer->save(folder / "tokenizer.model");
    EXPECT_EQ(Tokenizer::load(folder / "tokenizer.model")->encode(english()), tokenizer->encode(english()));
  }
}

// The library passes over long lines by itself.
TEST(TrainSentencePiece, LearnsFromOneLongLine) {
  std::string text;
  for (int i = 0; i < 4000; ++i) text += i % 3 == 0 ? "heaven " : "earth ";
  const auto tokenizer = pieces_of(text, 290, "bpe");
  if (!tokenizer) GTEST_SKIP() << "SentencePiece is not in this build";
  EXPECT_TRUE(tokenizer->token_id("\xE2\x96\x81heaven").has_value());
}

std::function<void()> training(const std::function<void(TokenizerTraining&)>& change, const std::string& text = "abc") {
  return [=] {
    TokenizerTraining options;
    change(options);
    bpe_of(text, options);
  };
}

using T = TokenizerTraining;
constexpr auto kInvalid = ErrorCode::kInvalidArgument;

std::vector<RefusalCase> refusals() {
  return {
      {"VocabularyBelowTheBytes", kInvalid, {"257", "got 256"}, training([](T& t) { t.vocab_size = 256; })},
      {"VocabularyHuge", kInvalid, {"1000000", "got 1000001"}, training([](T& t) { t.vocab_size = 1'000'001; })},
      {"MinCount", kInvalid, {"min_count", "got 0"}, training([](T& t) { t.min_count = 0; })},
      {"MaxBytes", kInvalid, {"max_bytes", "got -1"}, training([](T& t) { t.max_bytes = -1; })},
      {"NoNameForEndOfText", kInvalid, {"end_of_text", "\"\""}, training([](T& t) { t.end_of_text = ""; })},
      {"UnknownNameForEndOfText", kInvalid, {"end_of_text", "fin"}, training([](T& t) { t.end_of_text = "fin"; })},
      {"NoDocument",
       kInvalid,
       {"document"},
       [] {
         const TemporaryFolder folder;
         write_bytes(folder / "a.jsonl", "{\"text\": \"\"}\n");
         train_bpe(Corpus::open({folder / "a.jsonl"}), {});
       }},
  };
}

INSTANTIATE_TEST_SUITE_P(TrainBpe, Refusals, ::testing::ValuesIn(refusals()), refusal_name);

TEST(TrainSentencePiece, RefusesWhatDoesNotFit) {
  if (!pieces_of(english(), 300, "bpe")) GTEST_SKIP() << "SentencePiece is not in this build";
  const std::vector<RefusalCase> rows = {
      {"Type", kInvalid, {"bpe or unigram", "word"}, [] { pieces_of(english(), 300, "word"); }},
      {"Vocabulary", kInvalid, {"261", "got 260"}, [] { pieces_of(english(), 260, "bpe"); }},
      {"Text", kInvalid, {"line"}, [] { pieces_of("\n\n\n", 300, "bpe"); }},
      {"FewerThanCharacters",
       kInvalid,
       {"vocab_size: expected 287 or more, since every character", "got 280"},
       [] { pieces_of("abcdefghijklmnopqrstuvwxyz", 280, "unigram"); }},
      {"FewerThanCharactersOfBpe",
       kInvalid,
       {"expected 287 or more", "got 280"},
       [] { pieces_of("abcdefghijklmnopqrstuvwxyz", 280, "bpe"); }},
  };
  for (const RefusalCase& row : rows) expect_refusal(row);
  for (const char* type : {"unigram", "bpe"}) {
    EXPECT_EQ(pieces_of("abcdefghijklmnopqrstuvwxyz", 287, type)->vocab_size(), 287) << type;
  }
}

}  // namespace
}  // namespace coluber::testing
