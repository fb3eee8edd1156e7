#include "core/utf8.h"

#include <gtest/gtest.h>

#include <string>

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

TEST(Utf8, ValidIsWhatNeedsNoRepair) {
  const std::string ascii = "seventeen letters";  // more than a word of 8 bytes, and a rest
  for (const char* good : {"", "a", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80",
                           "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_TRUE(is_valid_utf8(ascii + good + ascii)) << good;
  }
  for (const char* bad_text : {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
                               "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF"}) {
    EXPECT_FALSE(is_valid_utf8(ascii + bad_text + ascii)) << bad_text;
  }
  EXPECT_FALSE(is_valid_utf8("abcdefg\xE2\x82"));  // cut
}

}  // namespace
}  // namespace coluber::testing
