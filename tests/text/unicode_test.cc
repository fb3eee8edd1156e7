#include "text/unicode.h"

#include <gtest/gtest.h>

namespace coluber::testing {
namespace {

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
