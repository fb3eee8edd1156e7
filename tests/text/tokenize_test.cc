// Documents become tokens with their marks, whatever way they go: to a file, to a cache, to a file without a name.
#include "text/tokenize.h"

#include <gtest/gtest.h>

#include "tests/support/files.h"
#include "tests/support/refusals.h"
#include "tests/text/tokenizer_json.h"
#include "tests/text/tokenizers.h"
#include "text/packed_dataset.h"

namespace coluber::testing {
namespace {

using Ids = std::vector<std::int32_t>;

Ids all_ids(const TokenStore& store) {
  Ids ids(static_cast<std::size_t>(store.info().num_tokens));
  store.read(0, ids);
  return ids;
}

std::vector<std::int64_t> all_starts(const TokenStore& store) {
  std::vector<std::int64_t> starts;
  for (std::int64_t at = 0; (at = store.document_start_from(at)) < store.info().num_tokens; ++at) starts.push_back(at);
  return starts;
}

Corpus documents(const TemporaryFolder& folder, const std::string& text = "ab\n\nc\n\nde") {
  write_bytes(folder / "text.txt", text);
  CorpusOptions options;
  options.separator = DocumentSeparator::kBlankLine;
  return Corpus::open({folder / "text.txt"}, options);
}

// Letters a to e are 0 to 4, the marks behind them.
std::shared_ptr<const Tokenizer> letters(const std::vector<std::string>& marks) {
  std::string vocab = R"("a": 0, "b": 1, "c": 2, "d": 3, "e": 4)", added;
  for (std::size_t i = 0; i < marks.size(); ++i) {
    added += join(i == 0 ? "" : ", ", R"({"special": true, "content": ")", marks[i], R"(", "id": )", 5 + i, "}");
  }
  return Tokenizer::from_json(R"({"added_tokens": [)" + added +
                              R"(], "model": {"type": "BPE", "merges": [], "vocab": {)" + vocab +
                              R"(}}, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
                              "decoder": {"type": "ByteLevel"}})");
}

TEST(Tokenize, BeginAndEndOfText) {
  const TemporaryFolder folder;
  const auto store = tokenize_to_temporary(*letters({"<s>", "</s>"}), documents(folder));
  EXPECT_EQ(all_ids(*store), (Ids{5, 0, 1, 6, 5, 2, 6, 5, 3, 4, 6}));
  EXPECT_EQ(all_starts(*store), (std::vector<std::int64_t>{0, 4, 7}));
  EXPECT_EQ(store->info().eos_id, 6);
}

TEST(Tokenize, OneEndOfTextOpensAndEndsAll) {
  const TemporaryFolder folder;
  for (const char* mark : {"<|endoftext|>", "</s>"}) {
    const auto store = tokenize_to_temporary(*letters({mark}), documents(folder));
    EXPECT_EQ(all_ids(*store), (Ids{5, 0, 1, 5, 2, 5, 3, 4, 5})) << mark;
    EXPECT_EQ(all_starts(*store), (std::vector<std::int64_t>{0, 3, 5}));
    EXPECT_EQ(store->info().num_documents, 3);
    EXPECT_EQ(store->info().eos_id, 5);
    const PackedBatch all = PackedDataset{TokenStream(store)}.chunk(0, 100);
    EXPECT_EQ(all.num_targets, 8);  // each but the last one
  }
}

TEST(Tokenize, BeginAlone) {
  const TemporaryFolder folder;
  const auto store = tokenize_to_temporary(*letters({"<s>"}), documents(folder));
  EXPECT_EQ(all_ids(*store), (Ids{5, 0, 1, 5, 2, 5, 3, 4}));
  EXPECT_EQ(store->info().eos_id, -1);
}

TEST(Tokenize, WithoutMarks) {
  const TemporaryFolder folder;
  const auto store = tokenize_to_temporary(*letters({}), documents(folder));
  EXPECT_EQ(all_ids(*store), (Ids{0, 1, 2, 3, 4}));
  EXPECT_EQ(all_starts(*store), (std::vector<std::int64_t>{0, 2, 3}));
  // what has no token at all is no document
  const auto unknown = tokenize_to_temporary(*letters({}), documents(folder, "x\n\nab\n\nyz\n\nc"));
  EXPECT_EQ(all_ids(*unknown), (Ids{0, 1, 2}));
  EXPECT_EQ(all_starts(*unknown), (std::vector<std::int64_t>{0, 2}));
}

TEST(Tokenize, HeaderSaysWhatWasDone) {
  const TemporaryFolder folder;
  const auto store = tokenize_to_file(*Tokenizer::bytes(), documents(folder), folder / "t.bin");
  EXPECT_EQ(store->name(), folder / "t.bin");
  EXPECT_EQ(store->info().text_bytes, 5);
  EXPECT_EQ(store->info().num_tokens, 5);
  EXPECT_EQ(store->info().vocab_size, 256);
  EXPECT_EQ(store->info().num_documents, 3);
  EXPECT_EQ(store->info().tokenizer_fingerprint, Tokenizer::bytes()->fingerprint());
  EXPECT_EQ(std::filesystem::file_size(folder / "t.bin"), 64u + 16 + 3 * 8);  // 2 bytes a token, zeros up to 8
}

TEST(Tokenize, SpecialTokensInTheTextStayText) {
  const TemporaryFolder folder;
  write_bytes(folder / "a.txt", "<|endoftext|>");
  const Corpus corpus = Corpus::open({folder / "a.txt"});
  const std::int64_t eos = tiny_falcon()->eos_id();
  const Ids ids = all_ids(*tokenize_to_temporary(*tiny_falcon(), corpus));
  EXPECT_EQ(std::count(ids.begin(), ids.end(), eos), 2);  // in front and at the very end
  EXPECT_GT(ids.size(), 4u);
}

// Longer than a piece, as text and as JSON, which is the same.
TEST(Tokenize, LongDocuments) {
  const TemporaryFolder folder;
  std::string text;
  for (int i = 0; text.size() < 5'000'000; ++i) text += join("verse ", i, " of many; ");
  write_bytes(folder / "a.txt", text);
  write_bytes(folder / "a.jsonl", "{\"text\": \"" + text + "\"}\n{\"text\": \"end\"}\n");
  EncodeOptions options;
  options.parse_special = false;
  Ids expected = tiny_falcon()->encode(text, options);
  const auto eos = static_cast<std::int32_t>(tiny_falcon()->eos_id());
  expected.insert(expected.begin(), eos);
  expected.push_back(eos);
  std::vector<TokenizeProgress> progress;
  const auto store = tokenize_to_temporary(*tiny_falcon(), Corpus::open({folder / "a.txt"}),
                                           [&](const TokenizeProgress& p) { progress.push_back(p); });
  EXPECT_TRUE(all_ids(*store) == expected);
  ASSERT_GE(progress.size(), 4u);
  for (std::size_t i = 1; i < progress.size(); ++i) EXPECT_GE(progress[i].done_bytes, progress[i - 1].done_bytes);
  EXPECT_EQ(progress.back().done_bytes, static_cast<std::int64_t>(text.size()));
  EXPECT_EQ(progress.back().total_bytes, static_cast<std::int64_t>(text.size()));
  EXPECT_EQ(progress.back().num_tokens, store->info().num_tokens);
  const Ids json = all_ids(*tokenize_to_temporary(*tiny_falcon(), Corpus::open({folder / "a.jsonl"})));
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), json.begin()));
}

TEST(TokenizeCached, IsMadeOnce) {
  const TemporaryFolder folder;
  const std::string cache = folder / "new/folder";
  int calls = 0;
  const auto count = [&](const TokenizeProgress&) { ++calls; };
  const Corpus corpus = documents(folder);
  const auto first = tokenize_cached(*Tokenizer::bytes(), corpus, cache, count);
  EXPECT_EQ(calls, 1);
  const auto again = tokenize_cached(*Tokenizer::bytes(), corpus, cache, count);
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(again->name(), first->name());
  EXPECT_EQ(all_ids(*again), all_ids(*first));
  const auto other = tokenize_cached(*tiny_falcon(), corpus, cache, count);
  EXPECT_EQ(calls, 2);
  EXPECT_NE(other->name(), first->name());
  const auto changed = tokenize_cached(*Tokenizer::bytes(), documents(folder, "other text"), cache, count);
  EXPECT_EQ(calls, 3);
  EXPECT_NE(changed->name(), first->name());
}

// A tokenizer_config.json changes what stands around documents, and not the tokenizer's fingerprint.
TEST(TokenizeCached, KnowsBeginAndEndOfText) {
  const TemporaryFolder folder, cache;
  const Corpus corpus = documents(folder, "c");
  write_bytes(folder / "tokenizer.json", small_json());
  const auto plain = Tokenizer::load(folder / "tokenizer.json");
  write_bytes(folder / "tokenizer_config.json", R"({"bos_token": "a", "eos_token": "b"})");
  const auto framed = Tokenizer::load(folder / "tokenizer.json");
  ASSERT_EQ(plain->fingerprint(), framed->fingerprint());
  EXPECT_EQ(all_ids(*tokenize_cached(*plain, corpus, cache.path())), (Ids{2}));
  EXPECT_EQ(all_ids(*tokenize_cached(*framed, corpus, cache.path())), (Ids{0, 2, 1}));
}

TEST(Tokenize, AnInterruptedRunLeavesNothing) {
  const TemporaryFolder folder, out;
  struct Interrupted {};
  const auto interrupt = [](const TokenizeProgress&) { throw Interrupted(); };
  EXPECT_THROW(tokenize_to_file(*Tokenizer::bytes(), documents(folder), out / "t.bin", interrupt), Interrupted);
  EXPECT_EQ(out.num_files(), 0u);
}

constexpr auto kInvalid = ErrorCode::kInvalidArgument;

std::vector<RefusalCase> refusals() {
  const auto to = [](const std::string& path) {
    return [path] {
      const TemporaryFolder folder;
      tokenize_to_file(*Tokenizer::bytes(), documents(folder), path);
    };
  };
  return {
      {"NoFolder", ErrorCode::kIo, {"/nowhere/t.bin"}, to("/nowhere/t.bin")},
      {"FolderItself", ErrorCode::kIo, {"a folder"}, to("/tmp")},
      {"NoDocument",
       kInvalid,
       {"documents", "none in 4 bytes"},
       [] {
         const TemporaryFolder folder;
         tokenize_to_temporary(*Tokenizer::bytes(), documents(folder, "\n\n\n\n"));
       }},
      {"NoToken",
       kInvalid,
       {"documents"},
       [] {
         const TemporaryFolder folder;
         tokenize_to_temporary(*letters({}), documents(folder, "xyz"));
       }},
  };
}

INSTANTIATE_TEST_SUITE_P(Tokenize, Refusals, ::testing::ValuesIn(refusals()), refusal_name);

}  // namespace
}  // namespace coluber::testing
