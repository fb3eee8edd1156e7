#include "core/utf8.h"

#include <cstring>

namespace coluber {
namespace {

struct LeadByte {
  int size;                               // of the character; 0: no character begins so
  unsigned char low = 0x80, high = 0xBF;  // of the second byte: no overlong forms, no surrogates, nothing over U+10FFFF
};

LeadByte lead_byte(unsigned char lead) {
  if (lead < 0x80) return {1};
  if (lead < 0xC2) return {0};
  if (lead < 0xE0) return {2};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};
  if (lead == 0xED) return {3, 0x80, 0x9F};
  if (lead < 0xF0) return {3};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (lead < 0xF4) return {4};
  if (lead == 0xF4) return {4, 0x80, 0x8F};
  return {0};
}

// How many bytes from `at` are ASCII, in steps of 8.
std::size_t ascii_run(std::string_view text, std::size_t at) {
  const std::size_t begin = at;
  std::uint64_t word = 0;
  while (at + sizeof word <= text.size()) {
    std::memcpy(&word, text.data() + at, sizeof word);
    if ((word & 0x8080808080808080ull) != 0) break;
    at += sizeof word;
  }
  return at - begin;
}

// Two bytes of the three that spell a surrogate, at the end of a text. They cannot become a character, but streaming
// decoders elsewhere show such a part when it is whole, and three marks at once are no worse than two and one.
bool is_surrogate_begun(std::string_view text, std::size_t at) {
  return text.size() - at == 2 && text[at] == '\xED' && (static_cast<unsigned char>(text[at + 1]) & 0xE0u) == 0xA0u;
}

void append_repaired(std::string_view text, std::size_t at, const Utf8Char& c, std::string& out) {
  out += c.valid ? text.substr(at, static_cast<std::size_t>(c.size)) : kReplacement;
}

}  // namespace

Utf8Char decode_utf8(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {lead};
  const LeadByte kind = lead_byte(lead);
  if (kind.size == 0) return {0xFFFD, 1, false, false};
  char32_t code = lead & (0xFFu >> (kind.size + 1));
  for (int i = 1; i < kind.size; ++i) {
    const auto offset = static_cast<std::size_t>(i);
    if (at + offset >= text.size()) return {0xFFFD, i, false, true};
    const unsigned char next = byte(offset);
    const bool fits = i == 1 ? next >= kind.low && next <= kind.high : (next & 0xC0u) == 0x80u;
    if (!fits) return {0xFFFD, i, false, false};
    code = (code << 6) | (next & 0x3Fu);
  }
  return {code, kind.size, true, false};
}

void append_utf8(std::string& out, char32_t code) {
  const auto tail = [&](int shift) { out += static_cast<char>(0x80u | ((code >> shift) & 0x3Fu)); };
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0u | (code >> 6));
    tail(0);
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0u | (code >> 12));
    tail(6);
    tail(0);
  } else {
    out += static_cast<char>(0xF0u | (code >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

bool is_valid_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    at += ascii_run(text, at);
    if (at == text.size()) break;
    const Utf8Char c = decode_utf8(text, at);
    if (!c.valid) return false;
    at += static_cast<std::size_t>(c.size);
  }
  return true;
}

void drain_utf8(std::string& pending, std::string& out) {
  std::size_t at = 0;
  for (Utf8Char c; at < pending.size(); at += static_cast<std::size_t>(c.size)) {
    c = decode_utf8(pending, at);
    if (c.incomplete || is_surrogate_begun(pending, at)) break;
    append_repaired(pending, at, c, out);
  }
  pending.erase(0, at);
}

std::string repair_utf8(std::string_view text) {
  if (is_valid_utf8(text)) return std::string(text);
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_utf8(text, at);
    append_repaired(text, at, c, out);
    at += static_cast<std::size_t>(c.size);
  }
  return out;
}

}  // namespace coluber
