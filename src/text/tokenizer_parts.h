// What a Tokenizer is made of, whatever its kind. Filled by tokenizer_json.cc and sentencepiece_model.cc, never changed
// afterwards.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "coluber/tokenizer.h"
#include "text/text_encoder.h"

namespace coluber {

struct TokenPart {
  std::string piece;  // its spelling in the file
  std::string bytes;  // what it adds to a text
  bool special = false;
  bool strips = false;  // a space that it begins with may be one that encoding put in front
};

struct TokenizerParts {
  TokenizerKind kind = TokenizerKind::kBytes;
  std::string source;  // the bytes of the file
  std::vector<TokenPart> tokens;
  std::unordered_map<std::string, std::int32_t> ids;  // by piece
  std::unique_ptr<const TextEncoder> encoder;
  bool lossless = false;
  std::int64_t bos_id = -1, eos_id = -1;

  // Spaces that a text begins with and that decoding drops, in all and of one token.
  static constexpr std::int32_t kAnyNumber = std::numeric_limits<std::int32_t>::max();
  std::int32_t drop_spaces = 0, drop_spaces_of_token = 0;

  // By the names of well-known special tokens, where there are any.
  void find_begin_and_end();
};

}  // namespace coluber
