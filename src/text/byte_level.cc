#include "text/byte_level.h"

#include "core/utf8.h"

namespace coluber {
namespace {

constexpr char32_t kFirstOther = 0x100;
constexpr std::size_t kNumCharacters = 0x144;

std::array<char32_t, 256> make_characters() {
  std::array<char32_t, 256> characters{};
  char32_t other = kFirstOther;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool itself = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    characters[byte] = itself ? byte : other++;
  }
  return characters;
}

// Byte of each character, -1: none.
std::array<int, kNumCharacters> make_bytes() {
  std::array<int, kNumCharacters> bytes{};
  bytes.fill(-1);
  for (std::size_t byte = 0; byte < 256; ++byte) bytes[byte_level_characters()[byte]] = static_cast<int>(byte);
  return bytes;
}

}  // namespace

const std::array<char32_t, 256>& byte_level_characters() {
  static const std::array<char32_t, 256> characters = make_characters();
  return characters;
}

std::string to_byte_level(std::string_view bytes) {
  std::string out;
  for (const char byte : bytes) append_utf8(out, byte_level_characters()[static_cast<unsigned char>(byte)]);
  return out;
}

std::optional<std::string> from_byte_level(std::string_view spelled) {
  static const std::array<int, kNumCharacters> bytes = make_bytes();
  std::string out;
  for (std::size_t at = 0; at < spelled.size();) {
    const Utf8Char c = decode_utf8(spelled, at);
    if (c.code >= kNumCharacters || bytes[c.code] < 0) return std::nullopt;
    out += static_cast<char>(bytes[c.code]);
    at += static_cast<std::size_t>(c.size);
  }
  return out;
}

}  // namespace coluber
