#include "text/long_text.h"

#include <algorithm>

#include "core/utf8.h"
#include "text/unicode.h"

namespace coluber {
namespace {

constexpr std::size_t kContextBytes = 256;
constexpr std::size_t kSearchBytes = 1 << 16;  // looked through for a good place before a worse one is taken
constexpr int kMaxTrials = 64;                 // places that are encoded on trial in one such range

bool is_continuation(char c) {
  return (static_cast<unsigned char>(c) & 0xC0u) == 0x80u;
}

std::size_t character_before(std::string_view text, std::size_t at) {
  do --at;
  while (at > 0 && is_continuation(text[at]));
  return at;
}

bool is_space_at(std::string_view text, std::size_t at) {
  return is_space(decode_utf8(text, at).code);
}

}  // namespace

LongTextEncoder::LongTextEncoder(const Tokenizer& tokenizer, std::size_t piece_bytes)
    : tokenizer_(std::make_shared<const Tokenizer>(tokenizer)), piece_bytes_(piece_bytes) {
  if (piece_bytes_ == 0) piece_bytes_ = tokenizer.kind() == TokenizerKind::kSentencePiece ? 1 << 14 : 1 << 20;
  for (std::int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string& bytes = tokenizer.token_bytes(id);
    for (std::size_t i = 0; i + 1 < bytes.size(); ++i) {
      side_by_side_.set(static_cast<unsigned char>(bytes[i]) * 256u + static_cast<unsigned char>(bytes[i + 1]));
    }
  }
}

void LongTextEncoder::encode(std::string_view text, const Emit& emit) const {
  Cut begin{0};
  while (text.size() - begin.at > piece_bytes_ + piece_bytes_ / 2) {
    const Cut end = find_cut(text, begin.at + piece_bytes_);
    emit(encode_piece(text.substr(begin.at, end.at - begin.at), begin.joint), end.at);
    begin = end;
    if (begin.at == text.size()) return;
  }
  emit(encode_piece(text.substr(begin.at), begin.joint), text.size());
}

LongTextEncoder::Ids LongTextEncoder::encode_piece(std::string_view text, Joint joint) const {
  EncodeOptions options;
  options.parse_special = false;
  Ids ids = tokenizer_->encode(text.substr(joint == Joint::kDropSpace ? 1 : 0), options);
  if (joint == Joint::kDropToken) ids.erase(ids.begin());
  return ids;
}

// The first good place at or after `from`; the end when there is none.
LongTextEncoder::Cut LongTextEncoder::find_cut(std::string_view text, std::size_t from) const {
  Cut cut{text.size()};
  for (std::size_t begin = from; begin < text.size(); begin += kSearchBytes) {
    const std::size_t end = std::min(text.size(), begin + kSearchBytes);
    if (find_cut_in(text, begin, end, true, cut) || find_cut_in(text, begin, end, false, cut)) return cut;
  }
  return {text.size()};
}

bool LongTextEncoder::find_cut_in(std::string_view text, std::size_t begin, std::size_t end, bool at_spaces,
                                  Cut& cut) const {
  int trials = 0;
  for (std::size_t at = begin; at < end && trials < kMaxTrials; ++at) {
    if (!may_cut(text, at, at_spaces)) continue;
    cut.at = at;
    if (find_joint(text, cut)) return true;
    ++trials;
  }
  return false;
}

bool LongTextEncoder::may_cut(std::string_view text, std::size_t at, bool at_space) const {
  const char here = text[at];
  if ((here == ' ' || here == '\n') != at_space || is_continuation(here)) return false;
  if (side_by_side_[static_cast<unsigned char>(text[at - 1]) * 256u + static_cast<unsigned char>(here)]) return false;
  if (is_space_at(text, character_before(text, at))) return false;
  const std::size_t next = at_space ? at + 1 : at;
  return next < text.size() && !is_space_at(text, next);
}

bool LongTextEncoder::find_joint(std::string_view text, Cut& cut) const {
  std::size_t begin = cut.at - std::min(cut.at, kContextBytes);
  std::size_t end = std::min(text.size(), cut.at + kContextBytes);
  while (begin < cut.at && is_continuation(text[begin])) ++begin;
  while (end < text.size() && is_continuation(text[end])) ++end;
  const std::string_view right = text.substr(cut.at, end - cut.at);
  const Ids whole = encode_piece(text.substr(begin, end - begin), Joint::kPlain);
  const Ids left = encode_piece(text.substr(begin, cut.at - begin), Joint::kPlain);
  if (left.size() > whole.size() || !std::equal(left.begin(), left.end(), whole.begin())) return false;
  const Ids rest(whole.begin() + static_cast<std::ptrdiff_t>(left.size()), whole.end());
  for (const Joint joint : {Joint::kPlain, Joint::kDropSpace, Joint::kDropToken}) {
    if (joint == Joint::kDropSpace && right.front() != ' ') continue;
    if (encode_piece(right, joint) != rest) continue;
    cut.joint = joint;
    return true;
  }
  return false;
}

}  // namespace coluber
