// SentencePiece models (tokenizer.model), read and applied by that project's library.
#pragma once

#include <memory>
#include <string_view>

#include "text/tokenizer_parts.h"

namespace coluber {

// Throws kUnsupported in a build without the library, kCorruptFile for a model that is cut.
std::shared_ptr<TokenizerParts> read_sentencepiece_model(std::string_view bytes, std::string_view name);

}  // namespace coluber
