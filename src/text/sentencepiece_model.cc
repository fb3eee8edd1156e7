#include "text/sentencepiece_model.h"

#include "core/check.h"
#include "core/content.h"

#ifdef COLUBER_HAS_SENTENCEPIECE

#include <sentencepiece_processor.h>

#include <algorithm>
#include <optional>
#include <span>

#include "text/normalizer.h"
#include "text/token_decoder.h"

namespace coluber {
namespace {

constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // U+2581

// Field by field through a protocol buffer; only what SentencePiece's model needs.
class ProtoReader {
 public:
  explicit ProtoReader(std::string_view bytes) : rest_(bytes) {}

  // False at the end and where the bytes are no protocol buffer: then broken() is true.
  bool next() {
    if (rest_.empty()) return false;
    const std::uint64_t key = varint();
    field_ = key >> 3;
    switch (key & 7) {
      case 0: number_ = varint(); break;
      case 1: take(8); break;
      case 2: text_ = take(varint()); break;
      case 5: take(4); break;
      default: broken_ = true;
    }
    return !broken_;
  }
  bool broken() const { return broken_; }
  std::uint64_t field() const { return field_; }
  std::uint64_t number() const { return number_; }
  std::string_view text() const { return text_; }

 private:
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const std::string_view byte = take(1);
      if (broken_) return 0;
      const auto bits = static_cast<unsigned char>(byte.front());
      value |= std::uint64_t{bits & 0x7Fu} << shift;
      if (bits < 0x80) return value;
    }
    broken_ = true;
    return 0;
  }
  std::string_view take(std::uint64_t size) {
    if (size > rest_.size()) broken_ = true;
    if (broken_) return {};
    const std::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }

  std::string_view rest_, text_;
  std::uint64_t field_ = 0, number_ = 0;
  bool broken_ = false;
};

struct Model {
  std::int64_t num_pieces = 0;
  bool has_trainer = false, has_normalizer = false;
  bool add_dummy_prefix = true, remove_extra_whitespaces = true, escape_whitespaces = true;  // defaults of the format
  bool space_behind_words = false;
  bool merges = false;      // type BPE
  bool normalizes = false;  // a table of characters
};

bool read_trainer(std::string_view bytes, Model& model) {
  ProtoReader spec(bytes);
  while (spec.next()) {
    if (spec.field() == 3) model.merges = spec.number() == 2;
    if (spec.field() == 24) model.space_behind_words = spec.number() != 0;
  }
  model.has_trainer = true;
  return !spec.broken();
}

bool read_normalizer(std::string_view bytes, Model& model) {
  ProtoReader spec(bytes);
  while (spec.next()) {
    if (spec.field() == 2) model.normalizes = !spec.text().empty();
    if (spec.field() == 3) model.add_dummy_prefix = spec.number() != 0;
    if (spec.field() == 4) model.remove_extra_whitespaces = spec.number() != 0;
    if (spec.field() == 5) model.escape_whitespaces = spec.number() != 0;
  }
  model.has_normalizer = true;
  return !spec.broken();
}

// The library reads a file that ends between two fields as a smaller model; here it is seen that parts are missing.
std::optional<Model> survey(std::string_view bytes) {
  Model model;
  ProtoReader file(bytes);
  while (file.next()) {
    if (file.field() == 1) ++model.num_pieces;
    if (file.field() == 2 && !read_trainer(file.text(), model)) return std::nullopt;
    if (file.field() == 3 && !read_normalizer(file.text(), model)) return std::nullopt;
  }
  if (file.broken() || model.num_pieces == 0) return std::nullopt;
  return model;
}

// Whether encoding a text in parts, each from a space on, gives the ids of the whole: true when nothing is changed but
// spaces, and no piece has a space behind another character.
bool may_cut_at_spaces(const Model& model, const TokenizerParts& parts) {
  const auto keeps_spaces_in_front = [](const TokenPart& part) {
    std::string_view rest = part.piece;
    while (rest.starts_with(kSpaceSymbol)) rest.remove_prefix(kSpaceSymbol.size());
    return rest.find(kSpaceSymbol) == std::string_view::npos;
  };
  return model.merges && !model.normalizes && !model.remove_extra_whitespaces && model.escape_whitespaces &&
         !model.space_behind_words && std::all_of(parts.tokens.begin(), parts.tokens.end(), keeps_spaces_in_front);
}

class SentencePieceEncoder : public TextEncoder {
 public:
  SentencePieceEncoder(std::unique_ptr<sentencepiece::SentencePieceProcessor> processor, const Model& model,
                       const TokenizerParts& parts)
      : processor_(std::move(processor)),
        may_cut_(may_cut_at_spaces(model, parts)),
        adds_space_(model.add_dummy_prefix) {}

  // The library's time grows faster than a text: 0.4 MB/s for one of 4 MB.
  void encode(std::string_view text, bool /*parse_special*/, std::vector<std::int32_t>& ids) const override {
    constexpr std::size_t kPartBytes = 2048;
    for (std::size_t cut = find_cut(text, kPartBytes); cut < text.size(); cut = find_cut(text, kPartBytes)) {
      encode_part(text.substr(0, cut), ids);
      text.remove_prefix(adds_space_ ? cut + 1 : cut);  // the library puts the space back
    }
    encode_part(text, ids);
  }

 private:
  // A first space with text on both sides; the end of the text when there is none.
  std::size_t find_cut(std::string_view text, std::size_t from) const {
    if (!may_cut_) return text.size();
    for (std::size_t at = text.find(' ', from); at < text.size() && at + 1 < text.size(); at = text.find(' ', at + 1)) {
      const std::string_view before = text.substr(0, at);
      if (!before.ends_with(' ') && !before.ends_with(kSpaceSymbol)) return at;
    }
    return text.size();
  }

  void encode_part(std::string_view text, std::vector<std::int32_t>& ids) const {
    std::vector<int> found;
    const auto status = processor_->Encode({text.data(), text.size()}, &found);
    if (!status.ok()) {
      refuse(ErrorCode::kInvalidArgument, "tokenizer", join("text: SentencePiece says ", status.ToString()));
    }
    ids.insert(ids.end(), found.begin(), found.end());
  }

  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
  bool may_cut_, adds_space_;
};

TokenPart token_part(const sentencepiece::SentencePieceProcessor& processor, int id) {
  TokenPart part;
  part.piece = processor.IdToPiece(id);
  part.special = processor.IsControl(id) || processor.IsUnknown(id);
  if (processor.IsUnknown(id)) {
    part.bytes = processor.DecodeIds(std::vector<int>{id});  // " ⁇ " unless the model says another
  } else if (processor.IsByte(id)) {
    part.bytes.assign(1, static_cast<char>(byte_of_piece(part.piece)));
  } else if (!processor.IsControl(id)) {
    part.bytes = replace_all(part.piece, kSpaceSymbol, " ");
    part.strips = part.piece.starts_with(kSpaceSymbol);
  }
  return part;
}

[[noreturn]] void refuse_model(std::string_view bytes, std::string_view name, std::string_view reason) {
  const std::string_view kind = recognise_content(std::as_bytes(std::span(bytes)));
  refuse_value(ErrorCode::kCorruptFile, "tokenizer", name, "a whole SentencePiece model or a tokenizer.json",
               kind.empty() ? join(reason, " in ", bytes.size(), " bytes") : kind, "is the file complete?");
}

}  // namespace

std::shared_ptr<TokenizerParts> read_sentencepiece_model(std::string_view bytes, std::string_view name) {
  const std::optional<Model> model = survey(bytes);
  if (!model) refuse_model(bytes, name, "something cut or else");
  if (!model->has_trainer || !model->has_normalizer) {
    refuse_model(bytes, name, join(model->num_pieces, " pieces without what follows them"));
  }
  auto processor = std::make_unique<sentencepiece::SentencePieceProcessor>();
  const auto status = processor->LoadFromSerializedProto({bytes.data(), bytes.size()});
  if (!status.ok()) refuse_model(bytes, name, printable(status.ToString()));

  auto parts = std::make_shared<TokenizerParts>();
  parts->kind = TokenizerKind::kSentencePiece;
  parts->source = bytes;
  for (int id = 0; id < processor->GetPieceSize(); ++id) {
    parts->tokens.push_back(token_part(*processor, id));
    parts->ids.emplace(parts->tokens.back().piece, id);
  }
  if (model->remove_extra_whitespaces)
    parts->drop_spaces = TokenizerParts::kAnyNumber;
  else if (model->add_dummy_prefix)
    parts->drop_spaces = 1;
  parts->drop_spaces_of_token = 1;
  parts->bos_id = processor->bos_id();
  parts->eos_id = processor->eos_id();
  parts->encoder = std::make_unique<SentencePieceEncoder>(std::move(processor), *model, *parts);
  return parts;
}

}  // namespace coluber

#else

namespace coluber {

std::shared_ptr<TokenizerParts> read_sentencepiece_model(std::string_view /*bytes*/, std::string_view name) {
  refuse_value(ErrorCode::kUnsupported, "tokenizer", name, "a build with SentencePiece to read such a model",
               "one without", "install libsentencepiece-dev and build again, or use a tokenizer.json");
}

}  // namespace coluber

#endif
