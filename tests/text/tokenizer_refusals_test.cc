// Files that are no tokenizers: one sentence each, which names the file and what is wrong.
#include <gtest/gtest.h>

#include "tests/support/files.h"
#include "tests/support/refusals.h"
#include "tests/text/tokenizer_json.h"
#include "tests/text/tokenizers.h"

namespace coluber::testing {
namespace {

void load_text(const std::string& text, const std::string& name = "t.json") {
  const TemporaryFolder folder;
  write_bytes(folder / name, text);
  Tokenizer::load(folder / name);
}

// The small tokenizer with the value at `pointer` replaced.
std::function<void()> changed(const std::string& pointer, const Json& value) {
  return [=] {
    Json json = Json::parse(small_json());
    json[Json::json_pointer(pointer)] = value;
    load_text(json.dump());
  };
}

std::function<void()> with_file(const std::string& text, const std::string& name = "t.json") {
  return [=] { load_text(text, name); };
}

Json added(const std::string& content, const Json& id) {
  return Json::array({{{"id", id}, {"content", content}, {"special", true}, {"normalized", false}}});
}

std::vector<RefusalCase> file_cases() {
  const auto code = ErrorCode::kCorruptFile;
  const std::string json = small_json();
  std::string not_utf8 = json;
  not_utf8[not_utf8.find("\"a\"") + 1] = '\xFF';
  return {
      {"Missing", ErrorCode::kNotFound, {"/nowhere/t.json", "none"}, [] { Tokenizer::load("/nowhere/t.json"); }},
      {"FolderWithout",
       ErrorCode::kNotFound,
       {"tokenizer.json or tokenizer.model", "neither"},
       [] { Tokenizer::load(TemporaryFolder().path()); }},
      {"Empty", code, {"t.json", "0 bytes"}, with_file("")},
      {"Cut", code, {"t.json", "line"}, with_file(json.substr(0, json.size() / 2))},
      {"NotUtf8", code, {"t.json", "UTF-8"}, with_file(not_utf8)},
      {"NoObject", code, {"t.json", "an object"}, with_file("[1]")},
      {"NoModel", code, {"t.json: model", "an object", "nothing"}, with_file("{}")},
      {"DeepNesting", code, {"t.json", "nested deeper"}, with_file(std::string(100000, '['))},
      {"PieceTwice", code, {"t.json", "twice"}, with_file(R"({"model": {"vocab": {"a": 0, "a": 1}, "merges": []}})")},
      {"GitLfs", code, {"t.model", "Git LFS"}, with_file("version https://git-lfs.github.com/spec/v1\n", "t.model")},
      {"ConfigNamesNobody",
       code,
       {"tokenizer_config.json: eos_token", "\"</s>\""},
       [] {
         const TemporaryFolder folder;
         write_bytes(folder / "tokenizer.json", small_json());
         write_bytes(folder / "tokenizer_config.json", R"({"eos_token": "</s>"})");
         Tokenizer::load(folder.path());
       }},
  };
}

std::vector<RefusalCase> vocabulary_cases() {
  const auto code = ErrorCode::kCorruptFile;
  return {
      {"NoPieces", code, {"model.vocab", "at least one"}, changed("/model/vocab", Json::object())},
      {"VocabIsAList", code, {"model.vocab", "an object", "an array"}, changed("/model/vocab", Json::array({1}))},
      {"Hole", code, {"model.vocab", "ids 0 to 5", "6 for \"abc\"", "holes"}, changed("/model/vocab/abc", 6)},
      {"HugeId", code, {"ids 0 to 5", "2147483647"}, changed("/model/vocab/abc", 2147483647)},
      {"NegativeId", code, {"ids 0 to 5", "-1"}, changed("/model/vocab/abc", -1)},
      {"WordAsId", code, {"ids 0 to 5", "five"}, changed("/model/vocab/abc", "five")},
      {"FractionAsId", code, {"ids 0 to 5", "0.5"}, changed("/model/vocab/abc", 0.5)},
      {"IdTwice", code, {"one piece for each id", "\"ab\"", "\"abc\"", "id 4"}, changed("/model/vocab/abc", 4)},
      {"AddedHole", code, {"added_tokens[0].id", "ids 0 to 6"}, changed("/added_tokens", added("<s>", 7))},
      {"AddedHugeId", code, {"added_tokens[0].id", "4294967296"}, changed("/added_tokens", added("<s>", 4294967296))},
      {"AddedTakesAnId", code, {"added_tokens[0].id", "for id 3"}, changed("/added_tokens", added("<s>", 3))},
      {"AddedDisagrees",
       code,
       {"added_tokens[0].id", "5 for \"abc\"", "got 6"},
       changed("/added_tokens", added("abc", 6))},
      {"AddedIsText", code, {"added_tokens", "an array"}, changed("/added_tokens", "x")},
      {"AddedWithoutContent",
       code,
       {"added_tokens[0].content", "a string", "nothing"},
       changed("/added_tokens", Json::array({{{"id", 6}}}))},
      {"UnknownMerge", code, {"model.merges[0]", "\"x\""}, changed("/model/merges/0", "a x")},
      {"UnknownResult", code, {"model.merges[1]", "\"ba\""}, changed("/model/merges/1", Json::array({"b", "a"}))},
      {"MergeOfThree", code, {"model.merges[0]", "two pieces"}, changed("/model/merges/0", "a b c")},
      {"MergeOfOne", code, {"model.merges[0]", "two pieces"}, changed("/model/merges/0", Json::array({"a"}))},
      {"MergeOfNumbers",
       code,
       {"model.merges[0][1]", "a string", "7"},
       changed("/model/merges/0", Json::array({"a", 7}))},
      {"MergeIsNumber", code, {"model.merges[0]", "a string"}, changed("/model/merges/0", 3)},
      {"MergesMissing", code, {"model.merges", "an array", "nothing"}, changed("/model/merges", nullptr)},
      {"UnknownUnk", code, {"model.unk_token", "\"<unk>\""}, changed("/model/unk_token", "<unk>")},
      {"FlagIsWord", code, {"model.fuse_unk", "true or false", "yes"}, changed("/model/fuse_unk", "yes")},
  };
}

std::vector<RefusalCase> unsupported_cases() {
  const auto code = ErrorCode::kUnsupported;
  const Json regex = {{"type", "Split"}, {"behavior", "Isolated"}, {"pattern", {{"Regex", "[a-z]+"}}}};
  const Json strip = {{"type", "Sequence"}, {"decoders", {{{"type", "Strip"}, {"content", " "}, {"start", 1}}}}};
  return {
      {"Unigram", code, {"t.json: model.type", "BPE", "Unigram"}, changed("/model/type", "Unigram")},
      {"Dropout", code, {"model.dropout", "0.1"}, changed("/model/dropout", 0.1)},
      {"Suffix", code, {"model.end_of_word_suffix", "</w>"}, changed("/model/end_of_word_suffix", "</w>")},
      {"Normalizer",
       code,
       {"normalizer.type", "NFC", "BertNormalizer"},
       changed("/normalizer", {{"type", "BertNormalizer"}})},
      {"ReplaceRegex",
       code,
       {"normalizer.pattern.Regex", "a+"},
       changed("/normalizer", {{"type", "Replace"}, {"pattern", {{"Regex", "a+"}}}, {"content", ""}})},
      {"PreTokenizer", code, {"pre_tokenizer.type", "Whitespace"}, changed("/pre_tokenizer", {{"type", "Whitespace"}})},
      {"SplitRegex", code, {"pre_tokenizer.pattern.Regex", "[a-z]+"}, changed("/pre_tokenizer", regex)},
      {"DecoderMissing", code, {"decoder", "null"}, changed("/decoder", nullptr)},
      {"DecoderOfAnother", code, {"decoder", "ByteLevel"}, changed("/decoder", {{"type", "Fuse"}})},
      {"StripWithoutFuse", code, {"decoder.decoders[0].type", "Fuse"}, changed("/decoder", strip)},
      {"PostProcessor", code, {"post_processor.type", "Magic"}, changed("/post_processor", {{"type", "Magic"}})},
  };
}

std::vector<RefusalCase> call_cases() {
  const auto code = ErrorCode::kInvalidArgument;
  EncodeOptions begin, end;
  begin.add_bos = end.add_eos = true;
  const auto decode = [](std::int32_t id) { return [id] { tiny_falcon()->decode(std::vector{id}); }; };
  return {
      {"IdTooLarge", code, {"id", "0 to 767", "768", "700 tokens"}, decode(768)},
      {"IdNegative", code, {"id", "0 to 767", "-1"}, decode(-1)},
      {"NoBegin", code, {"add_bos", "begin-of-text"}, [=] { Tokenizer::bytes()->encode("a", begin); }},
      {"NoEnd", code, {"add_eos", "end-of-text"}, [=] { Tokenizer::bytes()->encode("a", end); }},
      {"Unwritable", ErrorCode::kIo, {"/proc/t.json"}, [] { Tokenizer::bytes()->save("/proc/t.json"); }},
  };
}

INSTANTIATE_TEST_SUITE_P(TokenizerFiles, Refusals, ::testing::ValuesIn(file_cases()), refusal_name);
INSTANTIATE_TEST_SUITE_P(TokenizerVocabulary, Refusals, ::testing::ValuesIn(vocabulary_cases()), refusal_name);
INSTANTIATE_TEST_SUITE_P(TokenizerUnsupported, Refusals, ::testing::ValuesIn(unsupported_cases()), refusal_name);
INSTANTIATE_TEST_SUITE_P(TokenizerCalls, Refusals, ::testing::ValuesIn(call_cases()), refusal_name);

// At every place, so that no cut is taken for a smaller model.
TEST(SentencePieceModel, CutIsRefused) {
  COLUBER_SKIP_WITHOUT("mistral-v3/tokenizer.model");
  const std::string whole = read_bytes(find_tokenizer("mistral-v3/tokenizer.model"));
  const TemporaryFolder folder;
  for (std::size_t size :
       {std::size_t{1}, std::size_t{14}, whole.size() / 3, whole.size() / 2, whole.size() - 200, whole.size() - 1}) {
    write_bytes(folder / "t.model", std::string_view(whole).substr(0, size));
    try {
      Tokenizer::load(folder / "t.model");
      ADD_FAILURE() << "accepted " << size << " of " << whole.size() << " bytes";
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kUnsupported) GTEST_SKIP() << error.what();
      EXPECT_EQ(error.code(), ErrorCode::kCorruptFile);
      EXPECT_NE(std::string(error.what()).find("t.model"), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace coluber::testing
