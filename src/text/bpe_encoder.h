// The whole way of a text through a tokenizer.json: added tokens, normalizer, pre-tokenizer, merges.
#pragma once

#include <string>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/normalizer.h"
#include "text/pretokenizer.h"
#include "text/text_encoder.h"

namespace coluber {

class BpeEncoder : public TextEncoder {
 public:
  // `cut_before`: a character that no token has behind another one, so that words may be cut in front of it; empty when
  // there is none.
  BpeEncoder(Normalizer normalizer, PreTokenizer pretokenizer, Bpe bpe, const std::vector<AddedToken>& added,
             std::string cut_before);

  void encode(std::string_view text, bool parse_special, std::vector<std::int32_t>& ids) const override;

 private:
  class Run;  // one call of encode
  void split(std::string_view text, const PreTokenizer::Emit& emit) const;

  Normalizer normalizer_;
  PreTokenizer pretokenizer_;
  Bpe bpe_;
  AddedTokenFinder raw_, normalized_;
  std::string cut_before_;
};

}  // namespace coluber
