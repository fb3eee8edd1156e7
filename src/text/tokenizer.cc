#include "coluber/tokenizer.h"

#include "core/check.h"
#include "core/hash.h"
#include "core/utf8.h"
#include "text/tokenizer_parts.h"

namespace coluber {
namespace {

constexpr std::int64_t kPadding = 128;  // models round their vocabulary up to a multiple of at most this

std::int64_t padded_size(const TokenizerParts& parts) {
  const auto size = static_cast<std::int64_t>(parts.tokens.size());
  return (size + kPadding - 1) / kPadding * kPadding;
}

// The padding of a model's vocabulary has no text.
const TokenPart& part_of(const TokenizerParts& parts, std::int32_t id) {
  static const TokenPart nothing;
  if (id >= 0 && static_cast<std::size_t>(id) < parts.tokens.size()) return parts.tokens[static_cast<std::size_t>(id)];
  if (id < 0 || id >= padded_size(parts)) {
    refuse_value(ErrorCode::kInvalidArgument, "tokenizer", "id", join("0 to ", padded_size(parts) - 1), join(id),
                 join("the vocabulary has ", parts.tokens.size(), " tokens"));
  }
  return nothing;
}

// Appends what `id` adds to the text; `to_drop` counts the spaces at its front that may still be dropped.
void append_token(const TokenizerParts& parts, std::int32_t id, const DecodeOptions& options, std::int32_t& to_drop,
                  std::string& out) {
  const TokenPart& part = part_of(parts, id);
  if (part.special && options.skip_special) return;
  std::string_view bytes = part.bytes;
  std::int32_t of_token = part.strips ? parts.drop_spaces_of_token : 0;
  while (of_token > 0 && to_drop > 0 && bytes.starts_with(' ')) {
    bytes.remove_prefix(1);
    --of_token;
    --to_drop;
  }
  if (!bytes.empty()) to_drop = 0;
  out += bytes;
}

std::int32_t checked_mark(std::int64_t id, std::string_view option, std::string_view meaning) {
  if (id < 0) {
    refuse_value(ErrorCode::kInvalidArgument, "tokenizer", option, join("a tokenizer with ", meaning, " token"),
                 "one without", "tokenizer_config.json beside the tokenizer names it");
  }
  return static_cast<std::int32_t>(id);
}

}  // namespace

std::string_view tokenizer_kind_name(TokenizerKind kind) {
  switch (kind) {
    case TokenizerKind::kBytes: return "bytes";
    case TokenizerKind::kBpe: return "bpe";
    case TokenizerKind::kSentencePiece: return "sentencepiece";
  }
  return "bytes";
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  std::vector<std::int32_t> ids;
  if (options.add_bos) ids.push_back(checked_mark(bos_id(), "add_bos", "a begin-of-text"));
  const std::int64_t eos = options.add_eos ? checked_mark(eos_id(), "add_eos", "an end-of-text") : -1;
  if (lossless() || is_valid_utf8(text)) {
    parts_->encoder->encode(text, options.parse_special, ids);
  } else {
    parts_->encoder->encode(repair_utf8(text), options.parse_special, ids);
  }
  if (options.add_eos) ids.push_back(static_cast<std::int32_t>(eos));
  return ids;
}

std::string Tokenizer::decode_bytes(std::span<const std::int32_t> ids, const DecodeOptions& options) const {
  std::string out;
  std::int32_t to_drop = parts_->drop_spaces;
  for (const std::int32_t id : ids) append_token(*parts_, id, options, to_drop, out);
  return out;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, const DecodeOptions& options) const {
  return repair_utf8(decode_bytes(ids, options));
}

std::int64_t Tokenizer::vocab_size() const {
  return static_cast<std::int64_t>(parts_->tokens.size());
}

std::optional<std::int32_t> Tokenizer::token_id(std::string_view piece) const {
  const auto found = parts_->ids.find(std::string(piece));
  if (found == parts_->ids.end()) return std::nullopt;
  return found->second;
}

std::string Tokenizer::token_piece(std::int32_t id) const {
  return part_of(*parts_, id).piece;
}
const std::string& Tokenizer::token_bytes(std::int32_t id) const {
  return part_of(*parts_, id).bytes;
}
bool Tokenizer::is_special(std::int32_t id) const {
  return part_of(*parts_, id).special;
}
std::int64_t Tokenizer::bos_id() const {
  return parts_->bos_id;
}
std::int64_t Tokenizer::eos_id() const {
  return parts_->eos_id;
}
TokenizerKind Tokenizer::kind() const {
  return parts_->kind;
}
bool Tokenizer::lossless() const {
  return parts_->lossless;
}
std::uint64_t Tokenizer::fingerprint() const {
  return fnv1a(parts_->source);
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, const DecodeOptions& options)
    : parts_(tokenizer.parts_), options_(options), spaces_to_drop_(parts_->drop_spaces) {}

std::string StreamDecoder::feed(std::int32_t id) {
  std::string shown;
  append_token(*parts_, id, options_, spaces_to_drop_, held_);
  drain_utf8(held_, shown);
  return shown;
}

std::string StreamDecoder::flush() {
  const std::string shown = repair_utf8(held_);
  held_.clear();
  spaces_to_drop_ = parts_->drop_spaces;
  return shown;
}

}  // namespace coluber
