// The regular expressions that published tokenizers divide text with, each matched by a function of ours.
//
//   GPT-2, GPT-NeoX, Falcon   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//   Llama 3, GPT-4            (?i:'s|'t|...)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
//   ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|... Qwen 2                    the same with \p{N} for \p{N}{1,3}
// Text is read as UTF-8, an ill-formed part as U+FFFD; or, behind a ByteLevel step, byte by byte as GPT-2 spells them.
#pragma once

#include <optional>
#include <string_view>

#include "text/unicode.h"

namespace coluber {

enum class Spelling : unsigned char { kUtf8, kByteLevel };
enum class WordPattern : unsigned char { kGpt2, kLlama3, kQwen2, kThreeDigits, kUpToThreeNumbers };

std::optional<WordPattern> word_pattern_of_regex(std::string_view regex);

// Where the match that begins at `at` ends; `at` itself when none begins there.
std::size_t match_word(WordPattern pattern, Spelling spelling, std::string_view text, std::size_t at);

struct ReadChar {
  char32_t code;
  std::size_t size;  // bytes
  CharClass kind;
};
ReadChar read_char(Spelling spelling, std::string_view text, std::size_t at);

}  // namespace coluber
