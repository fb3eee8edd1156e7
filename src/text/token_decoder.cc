#include "text/token_decoder.h"

#include <charconv>

#include "text/byte_level.h"
#include "text/normalizer.h"

namespace coluber {

int byte_of_piece(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece.back() != '>') return -1;
  int byte = -1;
  const auto [end, error] = std::from_chars(piece.data() + 3, piece.data() + 5, byte, 16);
  return error == std::errc() && end == piece.data() + 5 && byte >= 0 ? byte : -1;
}

std::string piece_of_byte(unsigned char byte) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  return {'<', '0', 'x', kDigits[byte >> 4], kDigits[byte & 15], '>'};
}

TokenDecoder::TokenDecoder(const JsonValue& json, bool byte_level) {
  append(json);
  if (byte_level != byte_level_) {
    json.unsupported(byte_level ? "ByteLevel, as the pre_tokenizer" : "no ByteLevel, as the pre_tokenizer has none");
  }
}

void TokenDecoder::append(const JsonValue& json) {
  constexpr const char* kKnown = "ByteLevel, Replace, ByteFallback, Fuse, Strip or Sequence";
  if (json.is_null()) json.unsupported(kKnown);
  const JsonValue type = json.member("type");
  const std::string& name = type.string();
  if (name == "Sequence") {
    const JsonValue list = json.member("decoders");
    for (std::size_t i = 0, n = list.array_size(); i < n; ++i) append(list.element(i));
  } else if (name == "ByteLevel") {
    if (!replacements_.empty() || byte_fallback_) type.unsupported("ByteLevel in front of the others");
    byte_level_ = true;
  } else if (name == "Replace") {
    if (byte_level_ || byte_fallback_ || fused_) type.unsupported("Replace in front of the others");
    replacements_.emplace_back(literal_pattern(json.member("pattern")), json.member("content").string());
  } else if (name == "ByteFallback") {
    if (byte_level_ || fused_) type.unsupported("ByteFallback without ByteLevel and before Fuse");
    byte_fallback_ = true;
  } else if (name == "Fuse") {
    fused_ = true;
  } else if (name == "Strip") {
    append_strip(json);
  } else {
    type.unsupported(kKnown);
  }
}

void TokenDecoder::append_strip(const JsonValue& json) {
  if (!fused_) json.member("type").unsupported("Strip behind Fuse");
  if (json.member("content").string() != " ") json.member("content").unsupported("a space");
  if (json.member("stop").integer_or(0) != 0) json.member("stop").unsupported("0: a stream does not know its end");
  const std::int64_t start = json.member("start").integer_or(0);
  if (start < 0 || start > INT32_MAX) json.member("start").refuse_type("a number of characters");
  drop_spaces_ = static_cast<std::int32_t>(start);
}

std::string TokenDecoder::bytes(std::string_view piece) const {
  if (byte_level_) return from_byte_level(piece).value_or(std::string(piece));
  std::string out(piece);
  for (const auto& [pattern, content] : replacements_) out = replace_all(out, pattern, content);
  const int byte = byte_fallback_ ? byte_of_piece(out) : -1;
  return byte >= 0 ? std::string(1, static_cast<char>(byte)) : out;
}

}  // namespace coluber
