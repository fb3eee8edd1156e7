// Files of tokens: what is read is what lies there, and every number of the header that lies is refused.
#include "text/token_store.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <limits>

#include "tests/support/refusals.h"
#include "tests/support/token_files.h"
#include "text/token_file.h"

namespace coluber::testing {
namespace {

std::vector<std::int32_t> all_ids(const TokenStore& store) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(store.info().num_tokens));
  store.read(0, ids);
  return ids;
}

TEST(TokenStore, ReadsFilesOfTwoAndFourBytes) {
  const TemporaryFolder folder;
  for (const std::uint32_t token_bytes : {2u, 4u}) {
    TokenFileFields fields;
    fields.token_bytes = token_bytes;
    if (token_bytes == 4) fields.vocab_size = 100'001, fields.ids[2] = 100'000;
    write_bytes(folder / "a.bin", token_file(fields));
    const auto store = TokenStore::open(folder / "a.bin");
    EXPECT_EQ(store->name(), folder / "a.bin");
    EXPECT_EQ(store->info().num_tokens, 6);
    EXPECT_EQ(store->info().vocab_size, fields.vocab_size);
    EXPECT_EQ(store->info().tokenizer_fingerprint, 77u);
    EXPECT_EQ(store->info().num_documents, 2);
    EXPECT_EQ(store->info().eos_id, 0);
    EXPECT_EQ(store->info().text_bytes, 20);
    EXPECT_EQ(all_ids(*store), std::vector<std::int32_t>(fields.ids.begin(), fields.ids.end()));
    std::vector<std::int32_t> middle(3);
    store->read(2, middle);
    EXPECT_EQ(middle[0], static_cast<std::int32_t>(fields.ids[2]));
    EXPECT_EQ(middle[2], 7);
    EXPECT_EQ(store->document_start_from(0), 0);
    EXPECT_EQ(store->document_start_from(1), 3);
    EXPECT_EQ(store->document_start_from(3), 3);
    EXPECT_EQ(store->document_start_from(4), 6);
  }
}

TEST(TokenStore, TellsItsFilesFromOthers) {
  const TemporaryFolder folder;
  write_bytes(folder / "a.bin", token_file({}));
  write_bytes(folder / "b.txt", "COLUBTO");
  EXPECT_TRUE(TokenStore::is_token_file(folder / "a.bin"));
  EXPECT_FALSE(TokenStore::is_token_file(folder / "b.txt"));
  EXPECT_FALSE(TokenStore::is_token_file(folder / "none"));
  EXPECT_FALSE(TokenStore::is_token_file(folder.path()));
}

TEST(TokenStore, InMemoryIsLikeAFile) {
  const auto store = TokenStore::of({1, 2, 3, 4}, 5, {0, 2}, 4);
  EXPECT_EQ(all_ids(*store), (std::vector<std::int32_t>{1, 2, 3, 4}));
  EXPECT_EQ(store->info().num_documents, 2);
  EXPECT_EQ(store->info().eos_id, 4);
  EXPECT_EQ(store->document_start_from(1), 2);
  EXPECT_EQ(store->document_start_from(3), 4);
}

// What the writer makes is what the reader finds, beyond the sizes at which it writes in between.
TEST(TokenFileWriter, MakesWhatTheReaderReads) {
  for (const std::int64_t vocab_size : {65536, 65537}) {
    UnnamedFile file("tokens");
    TokenStoreInfo known;
    known.vocab_size = vocab_size, known.tokenizer_fingerprint = 9, known.eos_id = 3;
    TokenFileWriter writer([&](const void* data, std::size_t size) { file.write(data, size); }, known);
    std::vector<std::int32_t> ids;
    std::vector<std::int64_t> starts;
    for (std::int64_t document = 0; document < 140'001; ++document) {
      writer.begin_document();
      starts.push_back(static_cast<std::int64_t>(ids.size()));
      const auto id = static_cast<std::int32_t>(document * 977 % vocab_size);
      writer.append({{id, 3}});
      ids.insert(ids.end(), {id, 3});
      writer.count_text(5);
    }
    writer.append({{2}});
    ids.push_back(2);
    EXPECT_EQ(writer.num_tokens(), static_cast<std::int64_t>(ids.size()));
    const TokenFileHeader header = writer.finish();
    EXPECT_EQ(header.token_bytes, vocab_size == 65536 ? 2u : 4u);
    file.rewrite(0, &header, sizeof header);
    const auto store = TokenStore::of_file("written", file.map("written"));
    EXPECT_EQ(store->info().num_documents, 140'001);
    EXPECT_EQ(store->info().text_bytes, 5 * 140'001);
    EXPECT_EQ(store->info().tokenizer_fingerprint, 9u);
    EXPECT_EQ(store->info().eos_id, 3);
    EXPECT_EQ(all_ids(*store), ids);
    for (const std::int64_t start : {starts[0], starts[1], starts[65'536], starts[131'072], starts.back()})
      EXPECT_EQ(store->document_start_from(start), start);
  }
}

// The file keeps to the table in the header, byte by byte.
TEST(TokenFileWriter, WritesTheDocumentedBytes) {
  std::string bytes;
  TokenStoreInfo known;
  known.vocab_size = 300, known.tokenizer_fingerprint = 77, known.eos_id = 0;
  TokenFileWriter writer(
      [&](const void* data, std::size_t size) { bytes.append(static_cast<const char*>(data), size); }, known);
  writer.begin_document();
  writer.append({{0, 5, 299}});
  writer.begin_document();
  writer.append({{0, 7, 8}});
  writer.count_text(20);
  const TokenFileHeader header = writer.finish();
  bytes.replace(0, sizeof header, reinterpret_cast<const char*>(&header), sizeof header);
  EXPECT_EQ(bytes, token_file({}));
}

// Five gibitokens that take no room on the disk: opening and reading cost what is read.
TEST(TokenStore, LargerThanAnyInt32) {
  const TemporaryFolder folder;
  TokenFileFields fields;
  fields.num_tokens = 5ll << 30;
  fields.num_documents = 0;
  fields.ids.clear();
  fields.starts.clear();
  write_bytes(folder / "big.bin", token_file(fields));
  std::filesystem::resize_file(folder / "big.bin", 64 + 2 * static_cast<std::uintmax_t>(fields.num_tokens));
  {
    std::fstream out(folder / "big.bin", std::ios::in | std::ios::out | std::ios::binary);
    out.seekp(64 + 2 * ((5ll << 30) - 2));
    out << le<std::uint16_t>(11) << le<std::uint16_t>(12);
  }
  const auto store = TokenStore::open(folder / "big.bin");
  std::vector<std::int32_t> ids(3);
  store->read((5ll << 30) - 3, ids);
  EXPECT_EQ(ids, (std::vector<std::int32_t>{0, 11, 12}));
}

// One number of a good file changed, or bytes cut off or added.
std::function<void()> opening(const std::function<void(TokenFileFields&)>& change, int more_bytes = 0) {
  return [=] {
    const TemporaryFolder folder;
    TokenFileFields fields;
    change(fields);
    std::string bytes = token_file(fields);
    bytes.resize(bytes.size() + static_cast<std::size_t>(more_bytes));
    write_bytes(folder / "t.bin", bytes);
    all_ids(*TokenStore::open(folder / "t.bin"));
  };
}

using F = TokenFileFields;
constexpr auto kCorrupt = ErrorCode::kCorruptFile;
constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();

std::vector<RefusalCase> refusals() {
  const auto same = [](F&) {};
  return {
      {"Missing", ErrorCode::kNotFound, {"none.bin"}, [] { TokenStore::open("/nowhere/none.bin"); }},
      {"Magic", kCorrupt, {"COLUBTOK"}, opening([](F& f) { f.magic = "COLUBTOX"; })},
      {"Version", kCorrupt, {"version", "expected 1", "got 2"}, opening([](F& f) { f.version = 2; })},
      {"TokenBytes", kCorrupt, {"2 or 4", "got 3"}, opening([](F& f) { f.token_bytes = 3; })},
      {"TokensBeyondTheFile", kCorrupt, {"100 tokens", "got 96"}, opening([](F& f) { f.num_tokens = 100; })},
      {"TokensNegative", kCorrupt, {"number of tokens", "got -1"}, opening([](F& f) { f.num_tokens = -1; })},
      {"TokensOverflow", kCorrupt, {"number of tokens", join(kMax)}, opening([](F& f) { f.num_tokens = kMax; })},
      // 2 n = 2^64 + 12: as many bytes as there are, to arithmetic that wraps
      {"TokensWrap", kCorrupt, {"number of tokens"}, opening([](F& f) { f.num_tokens = kMax - (kMax - 6) / 2 + 3; })},
      {"CutInTheHeader", kCorrupt, {"64 bytes", "got 63"}, opening(same, -33)},
      {"CutInTheTokens", kCorrupt, {"expected 96", "got 70"}, opening(same, -26)},
      {"CutInTheStarts", kCorrupt, {"expected 96", "got 95"}, opening(same, -1)},
      {"BytesBehind", kCorrupt, {"expected 96", "got 97"}, opening(same, 1)},
      {"VocabularyZero", kCorrupt, {"vocabulary", "got 0"}, opening([](F& f) { f.vocab_size = 0; })},
      {"VocabularyHuge", kCorrupt, {"vocabulary"}, opening([](F& f) { f.vocab_size = 1ll << 40; })},
      {"IdAtVocabulary", kCorrupt, {"token 2", "299"}, opening([](F& f) { f.vocab_size = 299; })},
      {"IdNegative", kCorrupt, {"token 1", "4294967295"}, opening([](F& f) {
         f.token_bytes = 4, f.ids[1] = 0xFFFFFFFFu;
       })},
      {"DocumentsNegative", kCorrupt, {"documents", "-2"}, opening([](F& f) { f.num_documents = -2; })},
      {"DocumentsMoreThanTokens", kCorrupt, {"documents", "7"}, opening([](F& f) { f.num_documents = 7; })},
      {"DocumentsNotAllThere", kCorrupt, {"3 documents", "got 96"}, opening([](F& f) { f.num_documents = 3; })},
      {"StartsUnsorted", kCorrupt, {"document 1", "got 3"}, opening([](F& f) {
         f.starts = {4, 3};
       })},
      {"StartsTwice", kCorrupt, {"document 1", "expected 1"}, opening([](F& f) {
         f.starts = {0, 0};
       })},
      {"StartNegative", kCorrupt, {"document 0", "-1"}, opening([](F& f) {
         f.starts = {-1, 3};
       })},
      {"StartBehindTheTokens", kCorrupt, {"document 1", "got 6"}, opening([](F& f) {
         f.starts = {0, 6};
       })},
      {"EndOfTextBeyond", kCorrupt, {"end-of-text", "300"}, opening([](F& f) { f.eos_id = 300; })},
      {"EndOfTextNegative", kCorrupt, {"end-of-text", "-2"}, opening([](F& f) { f.eos_id = -2; })},
      {"TextBytesNegative", kCorrupt, {"bytes of text", "-5"}, opening([](F& f) { f.text_bytes = -5; })},
      {"ReadBehindTheEnd",
       ErrorCode::kInvalidArgument,
       {"within 3 tokens", "2 from 2"},
       [] {
         std::vector<std::int32_t> ids(2);
         TokenStore::of({1, 2, 3}, 4)->read(2, ids);
       }},
      {"ReadBeforeTheFront",
       ErrorCode::kInvalidArgument,
       {"1 from -1"},
       [] {
         std::vector<std::int32_t> ids(1);
         TokenStore::of({1, 2, 3}, 4)->read(-1, ids);
       }},
      {"MemoryId",
       kCorrupt,
       {"tokens in memory", "token 1", "got 4"},
       [] {
         all_ids(*TokenStore::of({1, 4}, 4));
       }},
      {"MemoryStarts",
       ErrorCode::kInvalidArgument,
       {"document 1"},
       [] {
         TokenStore::of({1, 2}, 4, {1, 0});
       }},
      {"MemoryEndOfText",
       ErrorCode::kInvalidArgument,
       {"eos_id", "4"},
       [] {
         TokenStore::of({1, 2}, 4, {}, 4);
       }},
  };
}

INSTANTIATE_TEST_SUITE_P(TokenStore, Refusals, ::testing::ValuesIn(refusals()), refusal_name);

}  // namespace
}  // namespace coluber::testing
