// tokenizer.json, the format of Hugging Face's `tokenizers`, with a model of type BPE.
//
//   "added_tokens"    text_encoder finds these first (added_tokens.h)
//   "normalizer"      normalizer.h
//   "pre_tokenizer"   pretokenizer.h
//   "model"           vocabulary, merges as "a b" or ["a", "b"], what becomes of unknown characters (bpe.h)
//   "decoder"         token_decoder.h
// "post_processor" says what callers of that library may have put around a text; EncodeOptions says it here, so it has
// no effect, nor have "truncation" and "padding". Every other part that would change ids and is not known is refused.
#pragma once

#include <memory>
#include <string_view>

#include "text/tokenizer_parts.h"

namespace coluber {

std::shared_ptr<TokenizerParts> read_tokenizer_json(std::string_view text, std::string_view name);

// 256 ids, one for each byte; `source` is a tokenizer.json that says the same.
std::shared_ptr<TokenizerParts> make_byte_tokenizer();

}  // namespace coluber
