// Unicode classes, case and normal forms, through utf8proc; the classes that regular expressions and Rust's char know.
#pragma once

#include <string>
#include <string_view>

namespace coluber {

// What GPT-2's pattern tells apart.
enum class CharClass : unsigned char { kLetter, kNumber, kSpace, kOther };  // \p{L}, \p{N}, \s (White_Space), the rest

CharClass char_class(char32_t code);
bool is_space(char32_t code);        // White_Space
bool is_number(char32_t code);       // Nd, Nl, No
bool is_punctuation(char32_t code);  // ASCII punctuation and symbols, and all of P
bool is_word(char32_t code);         // \w: letters, marks, digits, connectors

enum class NormalForm : unsigned char { kNfc, kNfd, kNfkc, kNfkd };

// Of valid UTF-8.
std::string normalize(std::string_view text, NormalForm form);
std::string lowercase(std::string_view text);  // character by character, without regard to the neighbours
// Every character is below U+0300, so NFC leaves the text as it is.
bool is_below_combining(std::string_view text);

}  // namespace coluber
