#include "text/word_patterns.h"

#include <array>
#include <cstdint>
#include <utility>

#include "core/utf8.h"
#include "text/byte_level.h"

namespace coluber {
namespace {

constexpr std::array<CharClass, 128> make_ascii_classes() {
  std::array<CharClass, 128> classes{};
  for (unsigned char c = 0; c < 128; ++c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const bool space = c == ' ' || (c >= '\t' && c <= '\r');
    classes[c] = letter                 ? CharClass::kLetter
                 : space                ? CharClass::kSpace
                 : c >= '0' && c <= '9' ? CharClass::kNumber
                                        : CharClass::kOther;
  }
  return classes;
}
constexpr std::array<CharClass, 128> kAsciiClasses = make_ascii_classes();

ReadChar read_byte(unsigned char byte) {
  const char32_t code = byte_level_characters()[byte];
  return {code, 1, char_class(code)};
}

ReadChar read_utf8(std::string_view text, std::size_t at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  if (lead < 0x80) return {lead, 1, kAsciiClasses[lead]};
  const Utf8Char c = decode_utf8(text, at);
  return {c.code, static_cast<std::size_t>(c.size), char_class(c.code)};
}

// A piece of text while a pattern is tried on it.
struct Reader {
  Spelling spelling;
  std::string_view text;

  bool ends(std::size_t at) const { return at >= text.size(); }
  ReadChar read(std::size_t at) const { return read_char(spelling, text, at); }
  bool is(std::size_t at, CharClass kind) const { return !ends(at) && read(at).kind == kind; }
  bool is_line_break(std::size_t at) const { return !ends(at) && (text[at] == '\n' || text[at] == '\r') && utf8(); }
  bool is_plain_space(std::size_t at) const { return !ends(at) && text[at] == ' ' && utf8(); }
  bool utf8() const { return spelling == Spelling::kUtf8; }

  // At most `limit` characters of one class.
  std::size_t run(std::size_t at, CharClass kind, std::size_t limit = SIZE_MAX) const {
    for (; limit > 0 && !ends(at); --limit) {
      const ReadChar c = read(at);
      if (c.kind != kind) break;
      at += c.size;
    }
    return at;
  }
};

// 's 't 're 've 'm 'll 'd; without regard to case, where the long s counts as an s.
std::size_t match_contraction(const Reader& in, std::size_t at, bool any_case) {
  if (in.ends(at) || in.text[at] != '\'') return at;
  const auto letter = [&](std::size_t place) -> char32_t {
    if (in.ends(place)) return 0;
    const char32_t code = in.read(place).code;
    if (!any_case) return code;
    if (code == 0x17F) return U's';
    return code >= 'A' && code <= 'Z' ? code + ('a' - 'A') : code;
  };
  const char32_t first = letter(at + 1);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + 1 + in.read(at + 1).size;
  const char32_t second = first == 'r' || first == 'v' ? U'e' : first == 'l' ? U'l' : U'\0';
  return second != 0 && letter(at + 2) == second ? at + 3 : at;
}

// \s+(?!\S)|\s+ : a run of spaces leaves its last one to the word that follows, unless it has no other.
std::size_t match_spaces(const Reader& in, std::size_t at) {
  std::size_t end = at, last = at;  // `last` is where the last character of the run begins
  while (!in.ends(end)) {
    const ReadChar c = in.read(end);
    if (c.kind != CharClass::kSpace) break;
    last = end;
    end += c.size;
  }
  return in.ends(end) || last == at ? end : last;
}

std::size_t match_gpt2(const Reader& in, std::size_t at) {
  const std::size_t contraction = match_contraction(in, at, false);
  if (contraction > at) return contraction;
  const std::size_t begin = in.is_plain_space(at) ? at + 1 : at;
  if (!in.ends(begin)) {
    const ReadChar c = in.read(begin);
    if (c.kind != CharClass::kSpace) return in.run(begin + c.size, c.kind);
  }
  return match_spaces(in, at);
}

// \s*[\r\n]+ : as far as the last line break of a run of spaces.
std::size_t match_line_breaks(const Reader& in, std::size_t at) {
  const std::size_t spaces = in.run(at, CharClass::kSpace);
  for (std::size_t end = spaces; end > at; --end) {
    if (in.is_line_break(end - 1)) return end;
  }
  return at;
}

std::size_t match_llama3(const Reader& in, std::size_t at, std::size_t max_digits) {
  const std::size_t contraction = match_contraction(in, at, true);
  if (contraction > at) return contraction;
  const ReadChar c = in.read(at);
  if (c.kind == CharClass::kLetter) return in.run(at, CharClass::kLetter);
  if (c.kind == CharClass::kNumber) return in.run(at, CharClass::kNumber, max_digits);
  if (!in.is_line_break(at) && in.is(at + c.size, CharClass::kLetter)) {
    return in.run(at + c.size, CharClass::kLetter);
  }
  const std::size_t begin = in.is_plain_space(at) ? at + 1 : at;
  std::size_t end = in.run(begin, CharClass::kOther);
  if (end > begin) {
    while (in.is_line_break(end)) ++end;
    return end;
  }
  const std::size_t lines = match_line_breaks(in, at);
  return lines > at ? lines : match_spaces(in, at);
}

std::size_t match_three_digits(const Reader& in, std::size_t at) {
  for (std::size_t i = 0; i < 3; ++i) {
    if (in.ends(at + i) || in.text[at + i] < '0' || in.text[at + i] > '9') return at;
  }
  return at + 3;
}

}  // namespace

std::optional<WordPattern> word_pattern_of_regex(std::string_view regex) {
  static constexpr std::pair<std::string_view, WordPattern> kKnown[] = {
      {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", WordPattern::kGpt2},
      {R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", WordPattern::kGpt2},
      {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
       R"(\s*[\r\n]+|\s+(?!\S)|\s+)",
       WordPattern::kLlama3},
      {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
       R"(\s*[\r\n]+|\s+(?!\S)|\s+)",
       WordPattern::kQwen2},
      {"[0-9][0-9][0-9]", WordPattern::kThreeDigits},
      {"[0-9]{3}", WordPattern::kThreeDigits},
      {R"(\p{N}{1,3})", WordPattern::kUpToThreeNumbers},
  };
  for (const auto& [known, pattern] : kKnown) {
    if (regex == known) return pattern;
  }
  return std::nullopt;
}

ReadChar read_char(Spelling spelling, std::string_view text, std::size_t at) {
  return spelling == Spelling::kUtf8 ? read_utf8(text, at) : read_byte(static_cast<unsigned char>(text[at]));
}

std::size_t match_word(WordPattern pattern, Spelling spelling, std::string_view text, std::size_t at) {
  const Reader in{spelling, text};
  switch (pattern) {
    case WordPattern::kGpt2: return match_gpt2(in, at);
    case WordPattern::kLlama3: return match_llama3(in, at, 3);
    case WordPattern::kQwen2: return match_llama3(in, at, 1);
    case WordPattern::kThreeDigits: return match_three_digits(in, at);
    case WordPattern::kUpToThreeNumbers: return in.run(at, CharClass::kNumber, 3);
  }
  return at;
}

}  // namespace coluber
