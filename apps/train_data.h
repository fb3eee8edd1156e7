// What `coluber train` learns from: files, tokenizer, batches.
//
// Text is split into a part to learn from and a held-out part before anything is learned from it, the vocabulary
// included. Both parts become token files in OUT/tokens, so a second run or a resumed one starts at once.
#pragma once

#include <memory>
#include <string>

#include "apps/train_flags.h"
#include "coluber/tokenizer.h"
#include "text/packed_dataset.h"

namespace coluber::apps {

struct TrainData {
  std::shared_ptr<const Tokenizer> tokenizer;  // null: token files that came without one
  std::shared_ptr<const TokenStore> store;     // of what is learned from
  std::optional<PackedDataset> train, heldout;
  double bytes_per_token = 0;  // of the held-out text; 0: unknown

  bool reads(const std::string& token_file) const;
  std::int64_t vocab_size() const { return tokenizer ? tokenizer->vocab_size() : store->info().vocab_size; }
  // Batch `index` of training: a pure function of its number and the seed.
  Batches train_batches(const TrainFlags& flags) const;
  // Windows of held-out text, shorter where there is less of it than a sequence.
  Batches heldout_batches(const TrainFlags& flags) const;
  std::int64_t num_heldout_batches(const TrainFlags& flags) const;  // as many as asked for, or as there are
};

// `checkpoint`, when a training is resumed: its tokenizer is taken. `poll` is called now and then while text is read;
// what it throws ends that. Throws when a flag, file or vocabulary does not fit.
TrainData open_train_data(const TrainFlags& flags, const std::string& checkpoint,
                          const std::function<void()>& poll = {});
// The same from tokens in memory; `heldout` null: the share that the flags say is set apart.
TrainData open_train_tokens(const TrainFlags& flags, std::shared_ptr<const Tokenizer> tokenizer,
                            std::shared_ptr<const TokenStore> store, std::shared_ptr<const TokenStore> heldout);

// The first words of the held-out text, for samples; of the text itself when none is held out.
std::string first_words(const TrainData& data);

}  // namespace coluber::apps
