#include "text/utf8.h"

#include <gtest/gtest.h>

#include "text/unicode.h"

namespace coluber::testing {
namespace {

constexpr const char* kBad = "\xEF\xBF\xBD";

std::string bad(int parts) {
  std::string out;
  for (; parts > 0; --parts) out += kBad;
  return out;
}

// Table 3-8 of the Unicode standard, and the neighbours of every border.
TEST(Utf8, RepairsEachMaximalPart) {
  EXPECT_EQ(repair_utf8("a\xF1\x80\x80\xE1\x80\xC2"
                        "b\x80"
                        "c\x80\xBF"
                        "d"),
            "a" + bad(3) + "b" + bad(1) + "c" + bad(2) + "d");
  EXPECT_EQ(repair_utf8("\xC0\xAF"), bad(2));
  EXPECT_EQ(repair_utf8("\xE0\x9F\x80"), bad(3));
  EXPECT_EQ(repair_utf8("\xED\xA0\x80"), bad(3));
  EXPECT_EQ(repair_utf8("\xF4\x90\x80\x80"), bad(4));
  EXPECT_EQ(repair_utf8("\xF0\x9F\x98"), bad(1));
  EXPECT_EQ(repair_utf8("\xF5\xFF"), bad(2));
}

TEST(Utf8, EveryCharacterSurvives) {
  for (char32_t code = 0; code <= 0x10FFFF; ++code) {
    if (code >= 0xD800 && code <= 0xDFFF) continue;
    std::string text;
    append_utf8(text, code);
    const Utf8Char c = decode_utf8(text, 0);
    ASSERT_TRUE(c.valid && c.code == code && c.size == static_cast<int>(text.size())) << static_cast<unsigned>(code);
    for (std::size_t cut = 1; cut < text.size(); ++cut) {
      const Utf8Char part = decode_utf8(std::string_view(text).substr(0, cut), 0);
      ASSERT_TRUE(!part.valid && part.incomplete && part.size == static_cast<int>(cut)) << static_cast<unsigned>(code);
    }
  }
}

TEST(Utf8, DrainHoldsBackOnlyWhatMayBecomeACharacter) {
  std::string pending = "\xF0\x9F", out;
  drain_utf8(pending, out);
  EXPECT_EQ(out, "");
  EXPECT_EQ(pending, "\xF0\x9F");
  pending += "\x98\x80\xC3";
  drain_utf8(pending, out);
  EXPECT_EQ(out, "\xF0\x9F\x98\x80");
  EXPECT_EQ(pending, "\xC3");
  pending += "a";
  drain_utf8(pending, out);
  EXPECT_EQ(out, "\xF0\x9F\x98\x80" + bad(1) + "a");
  EXPECT_EQ(pending, "");
}

TEST(Utf8, DrainShowsASurrogateWhenItIsWhole) {
  std::string pending = "\xED\xA0", out;
  drain_utf8(pending, out);
  EXPECT_EQ(out, "");
  EXPECT_EQ(repair_utf8(pending), bad(2));
  pending += "\x80";
  drain_utf8(pending, out);
  EXPECT_EQ(out, bad(3));
  pending = "\xED\xA0x";
  drain_utf8(pending, out);
  EXPECT_EQ(out, bad(5) + "x");
}

TEST(Unicode, Classes) {
  for (const char32_t space : {0x09, 0x0B, 0x20, 0x85, 0xA0, 0x1680, 0x2028, 0x202F, 0x3000})
    EXPECT_EQ(char_class(space), CharClass::kSpace) << static_cast<unsigned>(space);
  for (const char32_t other : {0x1C, 0x200B, 0x180E, 0xFEFF, 0x300})
    EXPECT_EQ(char_class(other), CharClass::kOther) << static_cast<unsigned>(other);
  for (const char32_t number : {0x30, 0xB2, 0xBD, 0x663, 0x216B, 0x2460})
    EXPECT_EQ(char_class(number), CharClass::kNumber) << static_cast<unsigned>(number);
  for (const char32_t letter : {0x61, 0xAA, 0x2B0, 0x4E00, 0x20000})
    EXPECT_EQ(char_class(letter), CharClass::kLetter) << static_cast<unsigned>(letter);
  EXPECT_TRUE(is_punctuation('$') && is_punctuation(0xBF) && is_punctuation(0x3001));
  EXPECT_FALSE(is_punctuation(0x20AC) || is_punctuation('a'));
}

TEST(Unicode, NormalForms) {
  EXPECT_EQ(normalize("e\xCC\x81\xEF\xAC\x81", NormalForm::kNfc), "\xC3\xA9\xEF\xAC\x81");
  EXPECT_EQ(normalize("e\xCC\x81\xEF\xAC\x81", NormalForm::kNfkc),
            "\xC3\xA9"
            "fi");
  EXPECT_EQ(normalize("\xC3\xA9\xEF\xAC\x81", NormalForm::kNfd), "e\xCC\x81\xEF\xAC\x81");
  EXPECT_EQ(normalize("\xC3\xA9\xEF\xAC\x81", NormalForm::kNfkd),
            "e\xCC\x81"
            "fi");
  EXPECT_EQ(normalize(std::string_view("a\0b\xCC\x81", 5), NormalForm::kNfc), std::string_view("a\0b\xCC\x81", 5));
  EXPECT_EQ(lowercase("\xC3\x84\xCE\xA3I\xC4\xB0"), "\xC3\xA4\xCF\x83ii\xCC\x87");
}

}  // namespace
}  // namespace coluber::testing
