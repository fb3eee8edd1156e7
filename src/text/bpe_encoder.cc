#include "text/bpe_encoder.h"

#include "text/word_cache.h"

namespace coluber {

BpeEncoder::BpeEncoder(Normalizer normalizer, PreTokenizer pretokenizer, Bpe bpe, const std::vector<AddedToken>& added,
                       std::string cut_before)
    : normalizer_(std::move(normalizer)),
      pretokenizer_(std::move(pretokenizer)),
      bpe_(std::move(bpe)),
      cut_before_(std::move(cut_before)) {
  std::string buffer;
  for (const AddedToken& token : added) {
    if (token.normalized) {
      normalized_.add(normalizer_.apply(token.content, buffer), token);
    } else {
      raw_.add(token.content, token);
    }
  }
}

void BpeEncoder::split(std::string_view text, const PreTokenizer::Emit& emit) const {
  if (cut_before_.empty()) return pretokenizer_.split(text, emit);
  std::size_t begin = 0;
  for (std::size_t at = text.find(cut_before_, 1); at != std::string_view::npos;
       at = text.find(cut_before_, at + cut_before_.size())) {
    // Runs of the character stay together: tokens may consist of several.
    if (at >= cut_before_.size() && text.substr(at - cut_before_.size(), cut_before_.size()) == cut_before_) continue;
    emit(text.substr(begin, at - begin));
    begin = at;
  }
  emit(text.substr(begin));
}

class BpeEncoder::Run {
 public:
  Run(const BpeEncoder& encoder, bool special, std::vector<std::int32_t>& ids)
      : encoder_(encoder), special_(special), ids_(ids) {}

  void raw_text(std::string_view text) {
    encoder_.raw_.divide(
        text, special_, [this](std::string_view part) { normalized_text(part); },
        [this](std::int32_t id) { ids_.push_back(id); });
  }

 private:
  void normalized_text(std::string_view text) {
    std::string buffer;
    encoder_.normalized_.divide(
        encoder_.normalizer_.apply(text, buffer), special_,
        [this](std::string_view part) { encoder_.split(part, [this](std::string_view one) { word(one); }); },
        [this](std::int32_t id) { ids_.push_back(id); });
  }

  void word(std::string_view text) {
    cache_.append(text, ids_, [&](std::vector<std::int32_t>& ids) { encoder_.bpe_.encode_word(text, scratch_, ids); });
  }

  const BpeEncoder& encoder_;
  bool special_;
  std::vector<std::int32_t>& ids_;
  WordCache cache_;
  Bpe::Scratch scratch_;
};

void BpeEncoder::encode(std::string_view text, bool parse_special, std::vector<std::int32_t>& ids) const {
  Run(*this, parse_special, ids).raw_text(text);
}

}  // namespace coluber
