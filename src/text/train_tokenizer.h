// Learning a vocabulary from text.
//
// train_bpe: byte-level byte-pair encoding without normalisation, so lossless: words are cut by GPT-2's pattern, and
// the most frequent pair of neighbours becomes one token until there are vocab_size (arXiv 1508.07909). Ids:
// end-of-text 0, then the 256 bytes, then merges in the order they were learned. Equal counts go to the pair of lower
// ids, so the same text gives the same file. The result saves as a tokenizer.json that Hugging Face's `tokenizers`
// reads. train_sentencepiece: the same task by the sentencepiece library: identity normalisation, byte fallback, line
// breaks kept as a piece.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "coluber/tokenizer.h"
#include "text/corpus.h"

namespace coluber {

struct TokenizerTraining {
  std::int64_t vocab_size = 2048;             // 257 (the bytes and end-of-text) to 1,000,000
  std::int64_t min_count = 2;                 // rarer pairs are not merged: small texts give smaller vocabularies
  std::int64_t max_bytes = 1ll << 30;         // of text are looked at, from the front
  std::string end_of_text = "<|endoftext|>";  // the special token, id 0
  // (share done in 0..1, what is being done); from the calling thread.
  std::function<void(double share, const std::string& doing)> progress;
};

std::shared_ptr<const Tokenizer> train_bpe(const Corpus& corpus, const TokenizerTraining& options);

// model_type "bpe" or "unigram". Throws kUnsupported in a build without the library.
std::shared_ptr<const Tokenizer> train_sentencepiece(const Corpus& corpus, const TokenizerTraining& options,
                                                     const std::string& model_type = "bpe");

}  // namespace coluber
