// The "decoder" of a tokenizer.json: from the spelling of a token to what it adds to a text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/json_value.h"

namespace coluber {

class TokenDecoder {
 public:
  // ByteLevel; or Replace, ByteFallback, Fuse, Strip of spaces at the front, in this order. `byte_level`: what the
  // pre-tokenizer does, which the decoder must undo.
  TokenDecoder(const JsonValue& json, bool byte_level);

  std::string bytes(std::string_view piece) const;
  std::int32_t drop_spaces() const { return drop_spaces_; }  // at the front of a text

 private:
  void append(const JsonValue& json);
  void append_strip(const JsonValue& json);

  bool byte_level_ = false;
  bool byte_fallback_ = false;
  bool fused_ = false;
  std::vector<std::pair<std::string, std::string>> replacements_;
  std::int32_t drop_spaces_ = 0;
};

// The byte that "<0xNN>" stands for; -1: it is no such piece.
int byte_of_piece(std::string_view piece);
std::string piece_of_byte(unsigned char byte);

}  // namespace coluber
