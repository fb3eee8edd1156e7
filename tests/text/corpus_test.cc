// Documents out of files: where they begin and end, and that a split cuts between them and loses nothing.
#include "text/corpus.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/support/files.h"
#include "tests/support/refusals.h"

namespace coluber::testing {
namespace {

using Documents = std::vector<std::string>;

Documents documents(const Corpus& corpus) {
  Documents all;
  std::int64_t before = 0;
  corpus.for_each_document([&](std::string_view text, std::int64_t consumed) {
    EXPECT_GT(consumed, before);
    EXPECT_LE(consumed, corpus.size_bytes());
    before = consumed;
    all.emplace_back(text);
  });
  return all;
}

Corpus corpus_of(const TemporaryFolder& folder, const Documents& texts, DocumentSeparator separator = {},
                 const std::string& extension = ".txt") {
  std::vector<std::string> paths;
  for (const std::string& text : texts) {
    paths.push_back(folder / join(paths.size(), extension));
    write_bytes(paths.back(), text);
  }
  CorpusOptions options;
  options.separator = separator;
  return Corpus::open(paths, options);
}

TEST(Corpus, AFileIsADocumentToTheByte) {
  const TemporaryFolder folder;
  const Documents texts = {"one\n\ntwo\n", "\r\n three", "<|endoftext|>\n"};
  const Corpus corpus = corpus_of(folder, texts);
  EXPECT_EQ(documents(corpus), texts);
  EXPECT_EQ(corpus.size_bytes(), 9 + 8 + 14);
}

struct TextCase {
  std::string text;
  Documents expected;
};

TEST(Corpus, BlankLinesSeparate) {
  const std::vector<TextCase> cases = {
      {"a\nb\n\nc\n", {"a\nb", "c"}},
      {"a\n\n\n\nb", {"a", "b"}},
      {"\n\na\n\n", {"a"}},
      {"a\r\nb\r\n\r\nc\r\n", {"a\r\nb", "c"}},
      {"a\n \t\nb\n", {"a", "b"}},
      {" a \n\n b", {" a ", " b"}},
      {"no line break", {"no line break"}},
      {"\n \n", {}},
  };
  for (const TextCase& row : cases) {
    const TemporaryFolder folder;
    EXPECT_EQ(documents(corpus_of(folder, {row.text}, DocumentSeparator::kBlankLine)), row.expected) << row.text;
  }
}

TEST(Corpus, EndOfTextOnItsOwnSeparates) {
  const std::vector<TextCase> cases = {
      {"a\n\nb\n<|endoftext|>\nc\n", {"a\n\nb", "c"}},
      {"<|endoftext|>\na\n<|endoftext|>\n", {"a"}},
      {"a\r\n<|endoftext|>\r\nb", {"a", "b"}},
      {"a <|endoftext|> b\n", {"a <|endoftext|> b"}},
      {"a\n<|endoftext|>\n<|endoftext|>\nb\n", {"a", "b"}},
      {"<|endoftext|>", {}},
  };
  for (const TextCase& row : cases) {
    const TemporaryFolder folder;
    EXPECT_EQ(documents(corpus_of(folder, {row.text}, DocumentSeparator::kEndOfText)), row.expected) << row.text;
  }
}

TEST(Corpus, EmptyFilesAmongOthersAreNoMistake) {
  const TemporaryFolder folder;
  EXPECT_EQ(documents(corpus_of(folder, {"", "a", "", "b", ""})), (Documents{"a", "b"}));
}

TEST(Corpus, JsonLines) {
  const TemporaryFolder folder;
  const std::string text =
      "{\"text\": \"one\\ntwo\", \"meta\": {\"text\": \"no\", \"list\": [1, {\"text\": \"no\"}]}}\n"
      "\n"
      "{\"id\": 3, \"text\": \"\\u00e9\\ud83d\\ude00\"}\r\n"
      "{\"text\": \"\"}\n"
      "{\"text\": \"first\", \"text\": \"last counts\"}";
  for (const char* extension : {".jsonl", ".ndjson"}) {
    EXPECT_EQ(documents(corpus_of(folder, {text}, {}, extension)),
              (Documents{"one\ntwo", "\xC3\xA9\xF0\x9F\x98\x80", "last counts"}));
  }
  CorpusOptions options;
  options.format = CorpusFormat::kText;
  EXPECT_EQ(documents(Corpus::open({folder / "0.jsonl"}, options)), Documents{text});
  options.format = CorpusFormat::kJsonLines;
  options.text_field = "body";
  write_bytes(folder / "x.txt", "{\"body\": \"b\", \"text\": 5}\n");
  EXPECT_EQ(documents(Corpus::open({folder / "x.txt"}, options)), Documents{"b"});
}

TEST(Corpus, ConsumedBytesEndAtTheSize) {
  const TemporaryFolder folder;
  const Corpus corpus = corpus_of(folder, {"a\n\nbb\n\n", "ccc"}, DocumentSeparator::kBlankLine);
  std::vector<std::int64_t> consumed;
  corpus.for_each_document([&](std::string_view, std::int64_t bytes) { consumed.push_back(bytes); });
  EXPECT_EQ(consumed, (std::vector<std::int64_t>{3, 7, 10}));
}

// Splits at every share: the documents of both halves together are those of the whole, and none is divided.
void expect_no_leak(const Corpus& corpus, double least_share) {
  const Documents all = documents(corpus);
  int splits = 0;
  for (double share = least_share; share < 1; share += 0.01) {
    const auto [first, last] = corpus.split(share);
    Documents halves = documents(first);
    const Documents heldout = documents(last);
    EXPECT_FALSE(halves.empty());
    EXPECT_FALSE(heldout.empty());
    halves.insert(halves.end(), heldout.begin(), heldout.end());
    EXPECT_EQ(halves, all) << share;
    EXPECT_EQ(first.size_bytes() + last.size_bytes(), corpus.size_bytes());
    EXPECT_LE(static_cast<double>(last.size_bytes()), share * static_cast<double>(corpus.size_bytes()) + 0.5);
    ++splits;
  }
  EXPECT_GT(splits, 40);
}

TEST(CorpusSplit, BetweenDocuments) {
  std::string blank, end_of_text, json;
  for (int i = 0; i < 60; ++i) {
    const std::string body = join("line ", i, "\n", std::string(static_cast<std::size_t>(i % 7), 'x'), "y");
    blank += body + (i % 3 == 0 ? "\n\n\n" : "\r\n\r\n");
    end_of_text += body + "\n\n<|endoftext|>\n";
    json += join("{\"text\": \"document ", i, "\"}\n");
  }
  const TemporaryFolder folder;
  expect_no_leak(corpus_of(folder, {blank}, DocumentSeparator::kBlankLine), 0.05);
  expect_no_leak(corpus_of(folder, {end_of_text}, DocumentSeparator::kEndOfText), 0.05);
  expect_no_leak(corpus_of(folder, {json}, {}, ".jsonl"), 0.05);
  expect_no_leak(corpus_of(folder, {json, json}, {}, ".ndjson"), 0.05);
  expect_no_leak(corpus_of(folder, {blank, blank}, DocumentSeparator::kBlankLine), 0.05);
  expect_no_leak(corpus_of(folder, {"aaaaaaaaaa", "bbbbbbbbbb", "cccccccccc", "dddddddddd"}), 0.26);
}

TEST(CorpusSplit, ExactlyAtABorderStays) {
  const TemporaryFolder folder;
  const auto [first, last] = corpus_of(folder, {"aa\n\nbb\nc", "d"}, DocumentSeparator::kBlankLine).split(5.0 / 9);
  EXPECT_EQ(first.size_bytes(), 4);
  EXPECT_EQ(documents(last), (Documents{"bb\nc", "d"}));
  const auto [file, other] = corpus_of(folder, {"aaaa", "bbbb"}).split(0.5);
  EXPECT_EQ(documents(file), Documents{"aaaa"});
  EXPECT_EQ(documents(other), Documents{"bbbb"});
}

TEST(CorpusSplit, InsideOfOneDocumentAtALine) {
  const TemporaryFolder folder;
  const auto [first, last] = corpus_of(folder, {"line one\nline two\nline three\n"}).split(0.5);
  EXPECT_EQ(documents(first), Documents{"line one\nline two\n"});
  EXPECT_EQ(documents(last), Documents{"line three\n"});
}

TEST(CorpusSplit, InsideOfOneLineAtACharacter) {
  const TemporaryFolder folder;
  const auto [first, last] = corpus_of(folder, {"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80z"}).split(0.3);  // 10 bytes
  EXPECT_EQ(documents(first), Documents{"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80"});
  EXPECT_EQ(documents(last), Documents{"z"});
}

TEST(CorpusSplit, OfJsonLinesNeverInsideOfALine) {
  const TemporaryFolder folder;
  const std::string large = "{\"text\": \"" + std::string(200, 'x') + "\"}\n\n";
  const auto [first, last] = corpus_of(folder, {"{\"text\": \"a\"}\n" + large}, {}, ".jsonl").split(0.1);
  EXPECT_EQ(documents(first), Documents{"a"});
  EXPECT_EQ(documents(last), Documents{std::string(200, 'x')});
}

TEST(CorpusSplit, BlankLinesAtTheEndAreNoDocument) {
  const TemporaryFolder folder;
  const auto [first, last] = corpus_of(folder, {"aaaa\n\nbbbb\n\n\n\n"}, DocumentSeparator::kBlankLine).split(0.5);
  EXPECT_EQ(documents(first), (Documents{"aaaa", "b"}));  // 14 bytes, cut at the seventh
  EXPECT_EQ(documents(last), Documents{"bbb"});
}

TEST(CorpusSplit, CanBeSplitAgain) {
  const TemporaryFolder folder;
  const Corpus whole = corpus_of(folder, {"a\n\nb\n\nc\n\nd\n\ne"}, DocumentSeparator::kBlankLine);
  const auto [first, test] = whole.split(0.3);
  const auto [train, heldout] = first.split(0.4);
  EXPECT_EQ(documents(train), (Documents{"a", "b"}));
  EXPECT_EQ(documents(heldout), Documents{"c"});
  EXPECT_EQ(documents(test), (Documents{"d", "e"}));
}

// Refusals count lines from the front of the file, in a later part, too.
TEST(CorpusSplit, LinesKeepTheirNumbers) {
  const TemporaryFolder folder;
  std::string json;
  for (int i = 0; i < 20; ++i) json += i == 17 ? "{\"text\": 5}\n" : "{\"text\": \"x\"}\n";
  const auto [first, last] = corpus_of(folder, {json}, {}, ".jsonl").split(0.3);
  expect_refusal({"", ErrorCode::kCorruptFile, {"line 18", "a string under \"text\"", "a number"}, [&, &part = last] {
                    documents(part);
                  }});
}

TEST(Corpus, FingerprintTellsFilesRangesAndOptionsApart) {
  const TemporaryFolder folder;
  const Corpus corpus = corpus_of(folder, {"a\n\nb\n\nc\n\nd"});
  const std::uint64_t fingerprint = corpus.fingerprint();
  EXPECT_EQ(Corpus::open({folder / "0.txt"}).fingerprint(), fingerprint);
  const auto [first, last] = corpus.split(0.5);
  EXPECT_NE(first.fingerprint(), fingerprint);
  EXPECT_NE(first.fingerprint(), last.fingerprint());
  CorpusOptions options;
  options.separator = DocumentSeparator::kBlankLine;
  EXPECT_NE(Corpus::open({folder / "0.txt"}, options).fingerprint(), fingerprint);
  options = {};
  options.text_field = "body";
  EXPECT_NE(Corpus::open({folder / "0.txt"}, options).fingerprint(), fingerprint);
  namespace fs = std::filesystem;
  fs::last_write_time(folder / "0.txt", fs::last_write_time(folder / "0.txt") + std::chrono::seconds(1));
  EXPECT_NE(Corpus::open({folder / "0.txt"}).fingerprint(), fingerprint);
}

// A file of 5 GiB without room on the disk, two words at its ends.
TEST(Corpus, LargerThanAnyInt32) {
  const TemporaryFolder folder;
  write_bytes(folder / "big.txt", "front\n\n");
  constexpr std::int64_t kSize = 5ll << 30;
  std::filesystem::resize_file(folder / "big.txt", kSize - 6);
  std::ofstream(folder / "big.txt", std::ios::app | std::ios::binary) << "\n\nback";
  const Corpus corpus = Corpus::open({folder / "big.txt"});
  EXPECT_EQ(corpus.size_bytes(), kSize);
  const auto [first, last] = corpus.split(8e-10);
  EXPECT_EQ(first.size_bytes(), kSize - 4);
  EXPECT_EQ(documents(last), Documents{"back"});
}

TEST(Corpus, NamesOfSeparators) {
  for (const DocumentSeparator separator :
       {DocumentSeparator::kNone, DocumentSeparator::kBlankLine, DocumentSeparator::kEndOfText})
    EXPECT_EQ(document_separator_from_name(document_separator_name(separator)), separator);
}

std::function<void()> reading_json(const std::string& line) {
  return [line] {
    const TemporaryFolder folder;
    documents(corpus_of(folder, {"{\"text\": \"good\"}\n\n" + line + "\n{\"text\": \"good\"}\n"}, {}, ".jsonl"));
  };
}

std::function<void()> splitting(const Documents& texts, double share, const std::string& extension = ".txt") {
  return [=] {
    const TemporaryFolder folder;
    (void)corpus_of(folder, texts, {}, extension).split(share);
  };
}

constexpr auto kInvalid = ErrorCode::kInvalidArgument;
constexpr auto kCorrupt = ErrorCode::kCorruptFile;

std::vector<RefusalCase> refusals() {
  return {
      {"NoFile", kInvalid, {"none"}, [] { Corpus::open({}); }},
      {"MissingFile", ErrorCode::kNotFound, {"/nowhere/a.txt"}, [] { Corpus::open({"/nowhere/a.txt"}); }},
      {"Folder", ErrorCode::kIo, {"a folder"}, [] { Corpus::open({"/tmp"}); }},
      {"Device", ErrorCode::kIo, {"regular file"}, [] { Corpus::open({"/dev/null"}); }},
      {"EmptyFiles",
       kInvalid,
       {"0.txt, ", "1.txt", "0 bytes"},
       [] {
         const TemporaryFolder folder;
         corpus_of(folder, {"", ""});
       }},
      {"JsonCut", kCorrupt, {"0.jsonl", "line 3", "JSON"}, reading_json("{\"text\": \"a")},
      {"JsonTwoOnALine", kCorrupt, {"line 3", "JSON"}, reading_json("{\"text\": \"a\"} {\"text\": \"b\"}")},
      {"JsonNoObject", kCorrupt, {"line 3", "an object", "a list"}, reading_json("[{\"text\": \"a\"}]")},
      {"JsonString", kCorrupt, {"line 3", "an object", "a string"}, reading_json("\"text\"")},
      {"JsonNoField", kCorrupt, {"line 3", "\"text\"", "no such key"}, reading_json("{\"Text\": \"a\"}")},
      {"JsonFieldDeeper", kCorrupt, {"line 3", "no such key"}, reading_json("{\"a\": {\"text\": \"b\"}}")},
      {"JsonNull", kCorrupt, {"line 3", "null"}, reading_json("{\"text\": null}")},
      {"JsonNumber", kCorrupt, {"line 3", "a number"}, reading_json("{\"text\": 1}")},
      {"JsonList", kCorrupt, {"line 3", "a list"}, reading_json("{\"text\": [\"a\"]}")},
      {"JsonObject", kCorrupt, {"line 3", "an object"}, reading_json("{\"text\": {\"text\": \"a\"}}")},
      {"JsonLastIsNoString", kCorrupt, {"a boolean"}, reading_json("{\"text\": \"a\", \"text\": true}")},
      {"JsonNotUtf8", kCorrupt, {"line 3", "JSON"}, reading_json("{\"text\": \"\xFF\"}")},
      {"JsonLoneSurrogate", kCorrupt, {"line 3", "JSON"}, reading_json("{\"text\": \"\\ud800\"}")},
      {"JsonPlainText", kCorrupt, {"line 3", "JSON"}, reading_json("In the beginning")},
      {"ShareZero", kInvalid, {"above 0", "got 0"}, splitting({"abc"}, 0)},
      {"ShareOne", kInvalid, {"below 1", "got 1"}, splitting({"abc"}, 1)},
      {"ShareNan", kInvalid, {"nan"}, splitting({"abc"}, std::numeric_limits<double>::quiet_NaN())},
      {"SplitOfOneByte", kInvalid, {"0 and 1 bytes"}, splitting({"a"}, 0.5)},
      {"SplitOfOneCharacter", kInvalid, {"4 and 0 bytes"}, splitting({"\xF0\x9F\x98\x80"}, 0.5)},
      {"SplitOfOneJsonLine", kInvalid, {"0 and 14 bytes"}, splitting({"{\"text\": \"a\"}\n"}, 0.5, ".jsonl")},
      {"Separator", kInvalid, {"blank-line", "lines"}, [] { document_separator_from_name("lines"); }},
  };
}

INSTANTIATE_TEST_SUITE_P(Corpus, Refusals, ::testing::ValuesIn(refusals()), refusal_name);

}  // namespace
}  // namespace coluber::testing
