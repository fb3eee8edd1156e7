// From documents to token files.
//
// A document becomes, by what the tokenizer has: begin-of-text, its tokens, end-of-text; or, where one id serves as
// both, end-of-text and its tokens (and one more at the very end); or its tokens alone. Special tokens that are spelled
// in the text stay text. Long documents are encoded in pieces, cut where no token can reach across (text/long_text.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "coluber/tokenizer.h"
#include "text/corpus.h"
#include "text/token_store.h"

namespace coluber {

struct TokenizeProgress {
  std::int64_t done_bytes = 0, total_bytes = 0;  // of the source
  std::int64_t num_tokens = 0;
};
using OnTokenizeProgress = std::function<void(const TokenizeProgress&)>;  // about every mebibyte, and at the end

// Written atomically: an interrupted run leaves nothing behind.
std::shared_ptr<const TokenStore> tokenize_to_file(const Tokenizer& tokenizer, const Corpus& corpus,
                                                   const std::string& path, const OnTokenizeProgress& progress = {});

// FOLDER/tokens-KEY.bin, made when it is not there; the key tells corpus and tokenizer apart.
std::shared_ptr<const TokenStore> tokenize_cached(const Tokenizer& tokenizer, const Corpus& corpus,
                                                  const std::string& folder, const OnTokenizeProgress& progress = {});

// In a file without a name, gone with the store: for evaluation of any length.
std::shared_ptr<const TokenStore> tokenize_to_temporary(const Tokenizer& tokenizer, const Corpus& corpus,
                                                        const OnTokenizeProgress& progress = {});

}  // namespace coluber
