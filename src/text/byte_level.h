// GPT-2's way to spell bytes: each of the 256 is one printable character, so that a vocabulary is readable text.
//
// Bytes 21..7E, A1..AC and AE..FF are the characters of the same number; the other 68, in order, are U+0100 to U+0143.
// A space is "Ġ", a line break "Ċ".
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace coluber {

// Character of each byte.
const std::array<char32_t, 256>& byte_level_characters();

std::string to_byte_level(std::string_view bytes);
// Nothing when a character stands for no byte.
std::optional<std::string> from_byte_level(std::string_view spelled);

}  // namespace coluber
