// UTF-8: reading it byte by byte, and what becomes of bytes that are none.
//
// Ill-formed text is divided as the Unicode standard recommends (3.9, U+FFFD substitution of maximal subparts): the
// longest beginning of some character, at least one byte, is one part.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace coluber {

inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

struct Utf8Char {
  char32_t code = 0;  // U+FFFD when ill-formed
  int size = 1;       // bytes, of the ill-formed part too
  bool valid = true;
  bool incomplete = false;  // ill-formed only because the text ends: more bytes could make it a character
};

// The character that begins at `at` < text.size().
Utf8Char decode_utf8(std::string_view text, std::size_t at);

void append_utf8(std::string& out, char32_t code);
bool is_valid_utf8(std::string_view text);  // no overlong forms, no surrogates, nothing above U+10FFFF

// Every ill-formed part as U+FFFD.
std::string repair_utf8(std::string_view text);
// Moves what is certain from the front of `pending` to `out`, repaired; what may still become a character stays.
void drain_utf8(std::string& pending, std::string& out);

}  // namespace coluber
