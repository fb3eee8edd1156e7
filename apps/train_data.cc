#include "apps/train_data.h"

#include <charconv>
#include <filesystem>

#include "apps/terminal.h"
#include "core/atomic_file.h"
#include "core/check.h"
#include "text/tokenize.h"
#include "text/train_tokenizer.h"

namespace coluber::apps {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTrainTokenizer = "train:";
constexpr std::int64_t kPromptWords = 4;
constexpr std::int64_t kPromptTokens = 64;  // looked at for those words

std::int64_t heldout_length(const TrainData& data, const TrainFlags& flags) {
  return std::min(flags.seqlen, data.heldout->num_tokens() - 1);
}

std::optional<std::int64_t> trained_vocab_size(const std::string& tokenizer) {
  if (tokenizer.rfind(kTrainTokenizer, 0) != 0) return std::nullopt;
  std::int64_t size = 0;
  const char* end = tokenizer.data() + tokenizer.size();
  const auto [stop, error] = std::from_chars(tokenizer.data() + kTrainTokenizer.size(), end, size);
  if (error != std::errc() || stop != end) {
    refuse_value(ErrorCode::kInvalidArgument, "train", "--tokenizer", "train: and a number of pieces, as in train:2048",
                 tokenizer);
  }
  return size;
}

using Poll = std::function<void()>;

std::shared_ptr<const Tokenizer> train_tokenizer(const Corpus& corpus, std::int64_t vocab_size, bool quiet,
                                                 const Poll& poll) {
  TokenizerTraining training;
  training.vocab_size = vocab_size;
  Progress progress("vocabulary", "%", 100, quiet);
  training.progress = [&](double share, const std::string& doing) {
    if (poll) poll();
    progress.update(static_cast<std::int64_t>(100 * share), doing);
  };
  return train_bpe(corpus, training);
}

// That of the checkpoint. A file that was named when the training began must still hold the same vocabulary.
std::shared_ptr<const Tokenizer> resumed_tokenizer(const TrainFlags& flags, const std::string& checkpoint) {
  const bool beside = fs::exists(checkpoint + "/tokenizer.json") || fs::exists(checkpoint + "/tokenizer.model");
  const auto kept = beside ? Tokenizer::load(checkpoint) : Tokenizer::load(flags.tokenizer);
  if (!trained_vocab_size(flags.tokenizer) && (flags.tokenizer == "bytes" || fs::exists(flags.tokenizer))) {
    const auto named = Tokenizer::load(flags.tokenizer);
    if (named->fingerprint() != kept->fingerprint()) {
      refuse_value(ErrorCode::kInvalidArgument, "train", "vocabulary of " + flags.tokenizer,
                   join("that of ", checkpoint, " with ", kept->vocab_size(), " pieces"),
                   join("another one with ", named->vocab_size()), "start a new training for a new vocabulary");
    }
  }
  return kept;
}

std::shared_ptr<const Tokenizer> choose_tokenizer(const TrainFlags& flags, const std::string& checkpoint,
                                                  const Corpus& corpus, const Poll& poll) {
  if (!checkpoint.empty()) return resumed_tokenizer(flags, checkpoint);
  if (const auto vocab_size = trained_vocab_size(flags.tokenizer)) {
    return train_tokenizer(corpus, *vocab_size, flags.quiet, poll);
  }
  return Tokenizer::load(flags.tokenizer);
}

std::shared_ptr<const TokenStore> tokenized(const TrainFlags& flags, const Tokenizer& tokenizer, const Corpus& corpus,
                                            const Poll& poll) {
  const std::string folder = flags.out + "/tokens";
  ensure_directory(folder);
  Progress progress("tokens", "B", corpus.size_bytes(), flags.quiet);
  return tokenize_cached(tokenizer, corpus, folder, [&](const TokenizeProgress& p) {
    if (poll) poll();
    progress.update(p.done_bytes);
  });
}

void set_heldout(TrainData& data, TokenStream stream) {
  if (stream.size() < 2) {
    refuse_value(ErrorCode::kInvalidArgument, "train", "held-out tokens", "2 or more", join(stream.size()),
                 "give more data, a larger --heldout-share, or --heldout-share 0 for none");
  }
  const TokenStoreInfo& info = stream.store().info();
  if (info.text_bytes > 0) {
    data.bytes_per_token = static_cast<double>(info.text_bytes) / static_cast<double>(info.num_tokens);
  }
  data.heldout.emplace(std::move(stream));
}

TrainData open_text(const TrainFlags& flags, const std::string& checkpoint, const Poll& poll) {
  CorpusOptions options;
  options.text_field = flags.text_field;
  options.separator = document_separator_from_name(flags.separator);
  Corpus corpus = Corpus::open(flags.data, options);
  std::optional<Corpus> heldout;
  if (!flags.heldout.empty()) {
    heldout = Corpus::open(flags.heldout, options);
  } else if (flags.heldout_share > 0) {
    auto [train, rest] = corpus.split(flags.heldout_share);
    corpus = std::move(train);
    heldout = std::move(rest);
  }
  TrainData data;
  data.tokenizer = choose_tokenizer(flags, checkpoint, corpus, poll);
  data.store = tokenized(flags, *data.tokenizer, corpus, poll);
  data.train.emplace(TokenStream(data.store));
  if (heldout) set_heldout(data, TokenStream(tokenized(flags, *data.tokenizer, *heldout, poll)));
  return data;
}

void check_same_vocabulary(const TokenStore& store, std::int64_t vocab_size, std::uint64_t fingerprint,
                           std::string_view other) {
  const TokenStoreInfo& info = store.info();
  const bool same = info.tokenizer_fingerprint == 0 || fingerprint == 0 || info.tokenizer_fingerprint == fingerprint;
  if (same && info.vocab_size <= vocab_size) return;
  refuse_value(ErrorCode::kInvalidArgument, "train", join("vocabulary of ", store.name()),
               join("that of ", other, " with ", vocab_size, " ids"), join("another one with ", info.vocab_size));
}

// What is learned from and what is held out; `heldout` null: the share that the flags say.
void split_tokens(const TrainFlags& flags, TrainData& data, const std::shared_ptr<const TokenStore>& heldout) {
  TokenStream stream(data.store);
  if (heldout != nullptr) {
    check_same_vocabulary(*heldout, data.vocab_size(), data.store->info().tokenizer_fingerprint, data.store->name());
    set_heldout(data, TokenStream(heldout));
  } else if (flags.heldout_share > 0) {
    auto [train, rest] = stream.split(flags.heldout_share);
    stream = train;
    set_heldout(data, rest);
  }
  data.train.emplace(stream);
}

TrainData open_tokens(const TrainFlags& flags, const std::string& checkpoint) {
  TrainData data;
  data.store = TokenStore::open(flags.data[0]);
  if (flags.tokenizer != "bytes" || data.store->info().tokenizer_fingerprint == Tokenizer::bytes()->fingerprint()) {
    data.tokenizer = checkpoint.empty() ? Tokenizer::load(flags.tokenizer) : resumed_tokenizer(flags, checkpoint);
    check_same_vocabulary(*data.store, data.tokenizer->vocab_size(), data.tokenizer->fingerprint(), flags.tokenizer);
  }
  split_tokens(flags, data, flags.heldout.empty() ? nullptr : TokenStore::open(flags.heldout[0]));
  return data;
}

Batch to_batch(PackedBatch packed) {
  return {packed.ids, packed.targets, {{}, packed.resets}};
}

}  // namespace

bool TrainData::reads(const std::string& token_file) const {
  std::error_code ignored;
  return fs::equivalent(token_file, store->name(), ignored) ||
         (heldout && fs::equivalent(token_file, heldout->stream().store().name(), ignored));
}

Batches TrainData::train_batches(const TrainFlags& flags) const {
  return [data = *train, batch = flags.batch, seqlen = flags.seqlen, seed = flags.seed](std::int64_t index) {
    return to_batch(data.batch(index, batch, seqlen, seed));
  };
}

Batches TrainData::heldout_batches(const TrainFlags& flags) const {
  if (!heldout) return {};
  return [data = *heldout, batch = flags.batch, seqlen = heldout_length(*this, flags)](std::int64_t index) {
    return to_batch(data.batch(index, batch, seqlen, 0));  // the same windows whatever the seed of training
  };
}

std::int64_t TrainData::num_heldout_batches(const TrainFlags& flags) const {
  if (!heldout) return 0;
  const std::int64_t windows = heldout->windows_per_epoch(heldout_length(*this, flags));
  return std::min(flags.eval_batches, (windows + flags.batch - 1) / flags.batch);
}

TrainData open_train_data(const TrainFlags& flags, const std::string& checkpoint, const Poll& poll) {
  if (flags.data.empty()) {
    refuse_value(ErrorCode::kInvalidArgument, "train", "--data", "a file to learn from", "none");
  }
  std::size_t token_files = 0;
  for (const auto* files : {&flags.data, &flags.heldout}) {
    for (const std::string& file : *files) token_files += TokenStore::is_token_file(file) ? 1 : 0;
  }
  const std::size_t files = flags.data.size() + flags.heldout.size();
  if (token_files == 0) return open_text(flags, checkpoint, poll);
  if (token_files < files || flags.data.size() > 1 || flags.heldout.size() > 1) {
    refuse_value(ErrorCode::kInvalidArgument, "train", "--data", "text files, or one file of tokens (and one held out)",
                 join(files, " files of which ", token_files, " hold tokens"));
  }
  return open_tokens(flags, checkpoint);
}

TrainData open_train_tokens(const TrainFlags& flags, std::shared_ptr<const Tokenizer> tokenizer,
                            std::shared_ptr<const TokenStore> store, std::shared_ptr<const TokenStore> heldout) {
  TrainData data;
  data.tokenizer = std::move(tokenizer);
  data.store = std::move(store);
  if (data.tokenizer) check_same_vocabulary(*data.store, data.vocab_size(), 0, "the tokenizer");
  split_tokens(flags, data, heldout);
  return data;
}

std::string first_words(const TrainData& data) {
  if (!data.tokenizer) return {};
  const PackedBatch start = (data.heldout ? *data.heldout : *data.train).chunk(0, kPromptTokens);
  std::vector<std::int32_t> ids(start.ids.data<std::int32_t>(), start.ids.data<std::int32_t>() + start.ids.numel());
  const std::string text = data.tokenizer->decode(ids, {.skip_special = true});
  std::size_t at = text.find_first_not_of(" \n\t\r"), end = 0;
  if (at == std::string::npos) return {};
  const std::size_t begin = at;
  for (std::int64_t word = 0; word < kPromptWords && at != std::string::npos; ++word) {
    end = std::min(text.find_first_of(" \n\t\r", at), text.size());
    at = text.find_first_not_of(" \n\t\r", end);
  }
  return text.substr(begin, end - begin);
}

}  // namespace coluber::apps
