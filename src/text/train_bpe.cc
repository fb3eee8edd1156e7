#include <algorithm>

#include "core/check.h"
#include "core/json.h"
#include "text/byte_level.h"
#include "text/merge_learner.h"
#include "text/train_tokenizer.h"
#include "text/word_patterns.h"

namespace coluber {
namespace {

constexpr const char* kOp = "train_bpe";
constexpr std::int32_t kFirstByteId = 1;  // behind end-of-text
constexpr std::int64_t kReportBytes = 1 << 20;
constexpr double kCountingShare = 0.5;  // of the time, measured on 4 MB of English to 2048 pieces

void check_range(std::string_view what, std::int64_t least, std::int64_t most, std::int64_t got) {
  if (got < least || got > most) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, what, join(least, " to ", most), join(got));
  }
}

void check_options(const TokenizerTraining& options) {
  check_range("vocab_size", 257, 1'000'000, options.vocab_size);
  check_range("min_count", 1, std::numeric_limits<std::int64_t>::max(), options.min_count);
  check_range("max_bytes", 1, std::numeric_limits<std::int64_t>::max(), options.max_bytes);
  if (options.end_of_text.size() < 2) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "end_of_text", "a name of at least two bytes",
                 join('"', options.end_of_text, '"'));
  }
}

void report(const TokenizerTraining& options, double share, const char* doing) {
  if (options.progress) options.progress(share, doing);
}

class WordCounter {
 public:
  WordCounter(const TokenizerTraining& options, std::int64_t total_bytes)
      : options_(options), left_bytes_(options.max_bytes), total_bytes_(std::min(options.max_bytes, total_bytes)) {}

  // False when enough was looked at.
  bool add(std::string_view text) {
    text = text.substr(0, static_cast<std::size_t>(std::min<std::int64_t>(left_bytes_, std::ssize(text))));
    left_bytes_ -= std::ssize(text);
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = match_word(WordPattern::kGpt2, Spelling::kUtf8, text, at);
      words_.add(text.substr(at, end - at));
      count(static_cast<std::int64_t>(end - at));
      at = end;
    }
    return left_bytes_ > 0;
  }

  const WordCounts& words() const { return words_; }

 private:
  void count(std::int64_t bytes) {
    done_bytes_ += bytes;
    if (done_bytes_ < next_report_) return;
    next_report_ = done_bytes_ + kReportBytes;
    const double share = static_cast<double>(done_bytes_) / static_cast<double>(total_bytes_);
    report(options_, kCountingShare * std::min(1.0, share), "counting words");
  }

  const TokenizerTraining& options_;
  std::int64_t left_bytes_, total_bytes_, done_bytes_ = 0, next_report_ = kReportBytes;
  WordCounts words_;
};

WordCounts count_words(const Corpus& corpus, const TokenizerTraining& options) {
  WordCounter counter(options, corpus.size_bytes());
  corpus.for_documents_while([&](std::string_view text, std::int64_t) { return counter.add(text); });
  if (counter.words().size() == 0) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "text", "at least one document that is not empty", "none");
  }
  return counter.words();
}

std::string json_string(std::string_view text) {
  return Json(text).dump();
}

// In the form that the `tokenizers` library writes.
std::string tokenizer_json(const MergeLearner& learner, const std::vector<LearnedMerge>& merges,
                           const std::string& end_of_text) {
  const std::string byte_level =
      R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true})";
  std::string json = join(R"({
  "version": "1.0",
  "truncation": null,
  "padding": null,
  "added_tokens": [
    {"id": 0, "content": )",
                          json_string(end_of_text),
                          R"(, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, )"
                          R"("special": true}
  ],
  "normalizer": null,
  "pre_tokenizer": )",
                          byte_level, R"(,
  "post_processor": null,
  "decoder": )",
                          byte_level, R"(,
  "model": {
    "type": "BPE",
    "dropout": null,
    "unk_token": null,
    "continuing_subword_prefix": null,
    "end_of_word_suffix": null,
    "fuse_unk": false,
    "byte_fallback": false,
    "ignore_merges": false,
    "vocab": {
      )",
                          json_string(end_of_text), ": 0");
  for (std::int32_t id = kFirstByteId; id < learner.num_symbols(); ++id) {
    json += join(",\n      ", json_string(to_byte_level(learner.bytes(id))), ": ", id);
  }
  json += "\n    },\n    \"merges\": [";
  const char* separator = "\n      ";
  for (const LearnedMerge& merge : merges) {
    json += separator +
            json_string(to_byte_level(learner.bytes(merge.left)) + " " + to_byte_level(learner.bytes(merge.right)));
    separator = ",\n      ";
  }
  return json + "\n    ]\n  }\n}\n";
}

}  // namespace

std::shared_ptr<const Tokenizer> train_bpe(const Corpus& corpus, const TokenizerTraining& options) {
  check_options(options);
  MergeLearner learner(count_words(corpus, options), kFirstByteId);
  learner.forbid(options.end_of_text);
  std::vector<LearnedMerge> merges;
  const auto wanted = static_cast<double>(options.vocab_size - learner.num_symbols());
  for (LearnedMerge merge{};
       learner.num_symbols() < options.vocab_size && learner.merge_next(options.min_count, merge);) {
    merges.push_back(merge);
    if (merges.size() % 256 != 0) continue;
    report(options, kCountingShare + (1 - kCountingShare) * static_cast<double>(merges.size()) / wanted,
           "merging pairs");
  }
  const auto tokenizer = Tokenizer::from_json(tokenizer_json(learner, merges, options.end_of_text));
  if (tokenizer->eos_id() != 0) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "end_of_text", "a name that tokenizers are known to use for it",
                 options.end_of_text, "<|endoftext|> is one");
  }
  report(options, 1, "done");
  return tokenizer;
}

}  // namespace coluber
