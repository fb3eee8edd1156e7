// How texts are divided into words: steps, their behaviors, and the patterns of published tokenizers. The expected
// words are those of the `tokenizers` library 0.23.
#include "text/pretokenizer.h"

#include <gtest/gtest.h>

namespace coluber::testing {
namespace {

using Words = std::vector<std::string>;

Words divide(const Json& json, const std::string& text) {
  const PreTokenizer pretokenizer(JsonValue("test", json));
  Words words;
  pretokenizer.split(text, [&](std::string_view word) { words.emplace_back(word); });
  return words;
}

Json split_by(const char* kind, const char* pattern, const char* behavior, bool invert = false) {
  return {{"type", "Split"}, {"pattern", {{kind, pattern}}}, {"behavior", behavior}, {"invert", invert}};
}

const Json kGpt2 = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";

TEST(PreTokenizer, Gpt2) {
  EXPECT_EQ(divide(kGpt2, "we'll don't 'LL x"), (Words{"we", "'ll", " don", "'t", " '", "LL", " x"}));
  EXPECT_EQ(divide(kGpt2, "a1234 56 ... b"), (Words{"a", "1234", " 56", " ...", " b"}));
  EXPECT_EQ(divide(kGpt2, "a   b\n\n c  "), (Words{"a", "  ", " b", "\n\n", " c", "  "}));
  EXPECT_EQ(divide(kGpt2,
                   "a\xC2\xA0\xC2\xA0"
                   "b\xE3\x80\x80"
                   "c"),
            (Words{"a", "\xC2\xA0", "\xC2\xA0", "b", "\xE3\x80\x80", "c"}));
  EXPECT_EQ(divide(kGpt2, "e\xCC\x81\xD9\xA1"), (Words{"e", "\xCC\x81", "\xD9\xA1"}));
}

TEST(PreTokenizer, Llama3) {
  const Json llama3 = split_by("Regex", kLlama3, "Isolated");
  EXPECT_EQ(divide(llama3, "We'LL 1234567!\n\n  x"), (Words{"We", "'LL", " ", "123", "456", "7", "!\n\n", " ", " x"}));
  EXPECT_EQ(divide(llama3, "(word) \t\n \nEnd.."), (Words{"(word", ")", " \t\n \n", "End", ".."}));
  EXPECT_EQ(divide(llama3, "'\xC5\xBFx"), (Words{"'\xC5\xBF", "x"}));
}

TEST(PreTokenizer, Behaviors) {
  const auto words = [](const char* behavior, bool invert) {
    return divide(split_by("String", "-", behavior, invert), "a--b-");
  };
  EXPECT_EQ(words("Removed", false), (Words{"a", "b"}));
  EXPECT_EQ(words("Isolated", false), (Words{"a", "-", "-", "b", "-"}));
  EXPECT_EQ(words("Contiguous", false), (Words{"a", "--", "b", "-"}));
  EXPECT_EQ(words("MergedWithPrevious", false), (Words{"a-", "-", "b-"}));
  EXPECT_EQ(words("MergedWithNext", false), (Words{"a", "-", "-b", "-"}));
  EXPECT_EQ(words("Removed", true), (Words{"-", "-", "-"}));
}

TEST(PreTokenizer, StepsBehindByteLevelReadItsSpelling) {
  const Json digits = {{"type", "Digits"}, {"individual_digits", false}};
  const Json both = {{"type", "Sequence"}, {"pretokenizers", {kGpt2, digits}}};
  EXPECT_EQ(divide(digits, "\xC3\xB2x12"), (Words{"\xC3\xB2x", "12"}));
  EXPECT_EQ(divide(both, "\xC3\xB2x12"), (Words{"\xC3", "\xB2", "x", "12"}));  // byte B2 is shown as a superscript two
}

TEST(PreTokenizer, AddPrefixSpace) {
  const Json json = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"use_regex", true}};
  EXPECT_EQ(divide(json, "a b"), (Words{" a", " b"}));
  EXPECT_EQ(divide(json, " a"), (Words{" a"}));
  EXPECT_FALSE(PreTokenizer(JsonValue("test", json)).keeps_text());
}

}  // namespace
}  // namespace coluber::testing
