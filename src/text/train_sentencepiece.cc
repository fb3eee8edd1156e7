#include "core/check.h"
#include "core/content.h"
#include "core/utf8.h"
#include "text/sentencepiece_model.h"
#include "text/train_tokenizer.h"

#ifdef COLUBER_HAS_SENTENCEPIECE

#include <sentencepiece_trainer.h>

#include <algorithm>

namespace coluber {
namespace {

constexpr const char* kOp = "train_sentencepiece";
constexpr std::size_t kMaxLineBytes = 4096;  // the library passes over lines of more than 4192
// 256 bytes, unknown, begin and end of text, the line break, and one piece to learn.
constexpr std::int64_t kLeastVocab = 261;

// The lines of a corpus, which the library pulls one by one.
class Lines : public sentencepiece::SentenceIterator {
 public:
  explicit Lines(std::int64_t max_bytes) : left_bytes_(max_bytes) {}

  // False when enough was looked at.
  bool add(std::string_view text) {
    text = text.substr(0, static_cast<std::size_t>(std::min<std::int64_t>(left_bytes_, std::ssize(text))));
    left_bytes_ -= std::ssize(text);
    while (!text.empty()) {
      const std::size_t end = std::min(text.find('\n'), text.size());
      add_line(text.substr(0, end));
      text.remove_prefix(std::min(end + 1, text.size()));
    }
    return left_bytes_ > 0;
  }
  bool empty() const { return ends_.empty(); }

  bool done() const override { return next_ > ends_.size() || ends_.empty(); }
  void Next() override {
    if (next_ < ends_.size()) {
      const std::size_t begin = next_ == 0 ? 0 : ends_[next_ - 1];
      value_ = repair_utf8(std::string_view(text_).substr(begin, ends_[next_] - begin));
    }
    ++next_;
  }
  const std::string& value() const override { return value_; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  void add_line(std::string_view line) {
    while (!line.empty()) {
      std::size_t size = std::min(line.size(), kMaxLineBytes);
      if (size < line.size()) {
        const std::size_t space = line.rfind(' ', size);
        if (space != std::string_view::npos && space > 0) size = space;
      }
      text_ += line.substr(0, size);
      ends_.push_back(text_.size());
      line.remove_prefix(size);
    }
  }

  std::int64_t left_bytes_;
  std::string text_, value_;
  std::vector<std::size_t> ends_;  // of the lines in text_
  std::size_t next_ = 0;
};

void check_options(const TokenizerTraining& options, const std::string& model_type) {
  if (model_type != "bpe" && model_type != "unigram") {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "model_type", "bpe or unigram", model_type);
  }
  if (options.vocab_size < kLeastVocab || options.vocab_size > 1'000'000) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "vocab_size", join(kLeastVocab, " to 1000000"),
                 join(options.vocab_size));
  }
  if (options.max_bytes < 1) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "max_bytes", "at least 1", join(options.max_bytes));
  }
}

// "... Vocabulary size is smaller than required_chars. 261 vs 281. Increase vocab_size or ..."
[[noreturn]] void refuse_status(const std::string& says, std::int64_t vocab_size) {
  const std::string too_small = "smaller than required_chars. " + std::to_string(vocab_size) + " vs ";
  if (const std::size_t at = says.find(too_small); at != std::string::npos) {
    const std::size_t begin = at + too_small.size(), end = says.find_first_not_of("0123456789", begin);
    refuse_value(ErrorCode::kInvalidArgument, kOp, "vocab_size",
                 join(says.substr(begin, end - begin), " or more, since every character of the text becomes a piece"),
                 join(vocab_size), "ask for more, or learn a vocabulary of bytes: bpe in a tokenizer.json");
  }
  refuse(ErrorCode::kInvalidArgument, kOp, join("SentencePiece says ", printable(says)));
}

void report(const TokenizerTraining& options, double share, const char* doing) {
  if (options.progress) options.progress(share, doing);
}

}  // namespace

std::shared_ptr<const Tokenizer> train_sentencepiece(const Corpus& corpus, const TokenizerTraining& options,
                                                     const std::string& model_type) {
  check_options(options, model_type);
  report(options, 0, "reading");
  Lines lines(options.max_bytes);
  corpus.for_documents_while([&](std::string_view text, std::int64_t) { return lines.add(text); });
  if (lines.empty()) refuse_value(ErrorCode::kInvalidArgument, kOp, "text", "at least one line", "none");
  report(options, 0.1, "learning pieces");
  lines.Next();
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train({{"model_type", model_type},
                                                                  {"vocab_size", std::to_string(options.vocab_size)},
                                                                  {"hard_vocab_limit", "false"},
                                                                  {"normalization_rule_name", "identity"},
                                                                  {"remove_extra_whitespaces", "false"},
                                                                  {"allow_whitespace_only_pieces", "true"},
                                                                  {"byte_fallback", "true"},
                                                                  {"user_defined_symbols", "\n"},
                                                                  {"minloglevel", "2"}},
                                                                 &lines, &model);
  if (!status.ok()) refuse_status(status.ToString(), options.vocab_size);
  const auto parts = read_sentencepiece_model(model, "the trained model");
  report(options, 1, "done");
  return std::make_shared<const Tokenizer>(parts);
}

}  // namespace coluber

#else

namespace coluber {

std::shared_ptr<const Tokenizer> train_sentencepiece(const Corpus&, const TokenizerTraining&, const std::string&) {
  refuse(ErrorCode::kUnsupported, "train_sentencepiece", "this build is without the SentencePiece library (train_bpe)");
}

}  // namespace coluber

#endif
