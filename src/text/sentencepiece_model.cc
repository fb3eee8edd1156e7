#include "text/sentencepiece_model.h"

#include "core/check.h"
#include "core/content.h"

#ifdef COLUBER_HAS_SENTENCEPIECE

#include <sentencepiece_processor.h>

#include <optional>

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
  bool add_dummy_prefix = true, remove_extra_whitespaces = true;  // the defaults of the format
};

// The library reads a file that ends between two fields as a smaller model; here it is seen that parts are missing.
std::optional<Model> survey(std::string_view bytes) {
  Model model;
  ProtoReader file(bytes);
  while (file.next()) {
    if (file.field() == 1) ++model.num_pieces;
    if (file.field() == 2) model.has_trainer = true;
    if (file.field() != 3) continue;
    model.has_normalizer = true;
    ProtoReader spec(file.text());
    while (spec.next()) {
      if (spec.field() == 3) model.add_dummy_prefix = spec.number() != 0;
      if (spec.field() == 4) model.remove_extra_whitespaces = spec.number() != 0;
    }
    if (spec.broken()) return std::nullopt;
  }
  if (file.broken() || model.num_pieces == 0) return std::nullopt;
  return model;
}

class SentencePieceEncoder : public TextEncoder {
 public:
  explicit SentencePieceEncoder(std::unique_ptr<sentencepiece::SentencePieceProcessor> processor)
      : processor_(std::move(processor)) {}

  void encode(std::string_view text, bool /*parse_special*/, std::vector<std::int32_t>& ids) const override {
    std::vector<int> found;
    const auto status = processor_->Encode({text.data(), text.size()}, &found);
    if (!status.ok()) {
      refuse(ErrorCode::kInvalidArgument, "tokenizer", join("text: SentencePiece says ", status.ToString()));
    }
    ids.insert(ids.end(), found.begin(), found.end());
  }

 private:
  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
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
  parts->encoder = std::make_unique<SentencePieceEncoder>(std::move(processor));
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
