#include "text/tokenizer_json.h"

#include <algorithm>
#include <set>

#include "core/check.h"
#include "core/content.h"
#include "core/utf8.h"
#include "text/bpe_encoder.h"
#include "text/byte_level.h"
#include "text/token_decoder.h"

namespace coluber {
namespace {

constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // U+2581, SentencePiece's space

std::string quote(std::string_view piece) {
  return join('"', printable(piece), '"');
}

class TokenizerReader {
 public:
  TokenizerReader(std::string_view name, const Json& root) : root_(name, root), model_(root_.member("model")) {}

  std::shared_ptr<TokenizerParts> read(std::string_view source) {
    parts_->kind = TokenizerKind::kBpe;
    parts_->source = source;
    check_model();
    pretokenizer_ = PreTokenizer(root_.member("pre_tokenizer"));
    Normalizer normalizer(root_.member("normalizer"));
    check_post_processor(root_.member("post_processor"));
    read_added_tokens();
    read_vocabulary();
    read_decoder();
    read_merges();
    read_symbols();
    parts_->lossless = is_lossless(normalizer);
    const std::string cut = find_cut();
    parts_->encoder = std::make_unique<BpeEncoder>(std::move(normalizer), std::move(pretokenizer_),
                                                   Bpe(std::move(symbols_), merges_), added_, cut);
    parts_->find_begin_and_end();
    return parts_;
  }

 private:
  void check_model() const {
    const JsonValue type = model_.member("type");
    if (type.string_or("BPE") != "BPE") type.unsupported("\"BPE\"");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (!model_.member(key).string_or("").empty()) model_.member(key).unsupported("null");
    }
    const Json& dropout = model_.member("dropout").json();
    if (!dropout.is_null() && dropout != 0) model_.member("dropout").unsupported("null: the same ids every time");
  }

  void check_post_processor(const JsonValue& json) const {
    if (json.is_null()) return;
    constexpr std::string_view kKnown[] = {"ByteLevel", "TemplateProcessing", "BertProcessing", "RobertaProcessing",
                                           "Sequence"};
    const JsonValue type = json.member("type");
    if (std::find(std::begin(kKnown), std::end(kKnown), type.string()) == std::end(kKnown)) {
      type.unsupported("ByteLevel, TemplateProcessing, BertProcessing, RobertaProcessing or Sequence");
    }
  }

  void read_added_tokens();
  void read_vocabulary();
  void place(const JsonValue& where, const std::string& piece, const Json& id);
  void read_decoder();
  void read_merges();
  std::int32_t piece_id(const JsonValue& where, const std::string& piece) const;
  void read_symbols();
  bool is_lossless(const Normalizer& normalizer) const;
  std::string find_cut() const;

  TokenPart& token(std::int32_t id) { return parts_->tokens[static_cast<std::size_t>(id)]; }
  const TokenPart& token(std::int32_t id) const { return parts_->tokens[static_cast<std::size_t>(id)]; }

  JsonValue root_, model_;
  std::shared_ptr<TokenizerParts> parts_ = std::make_shared<TokenizerParts>();
  PreTokenizer pretokenizer_;
  std::vector<AddedToken> added_;
  std::vector<BpeMerge> merges_;
  BpeSymbols symbols_;
  std::vector<bool> taken_;  // ids that have a piece
};

void TokenizerReader::read_added_tokens() {
  const JsonValue list = root_.member("added_tokens");
  if (list.is_null()) return;
  for (std::size_t i = 0, n = list.array_size(); i < n; ++i) {
    const JsonValue json = list.element(i);
    AddedToken token;
    const std::int64_t id = json.member("id").integer();
    if (id < 0 || id > INT32_MAX) json.member("id").refuse_type("an id of 0 to 2147483647");
    token.id = static_cast<std::int32_t>(id);
    token.content = json.member("content").string();
    token.special = json.member("special").boolean_or(false);
    token.normalized = json.member("normalized").boolean_or(!token.special);
    token.lstrip = json.member("lstrip").boolean_or(false);
    token.rstrip = json.member("rstrip").boolean_or(false);
    token.single_word = json.member("single_word").boolean_or(false);
    added_.push_back(std::move(token));
  }
}

// Every id from 0 up has one piece. Nothing is allocated for an id before it is known to be below the number of pieces.
void TokenizerReader::read_vocabulary() {
  const JsonValue vocab = model_.member("vocab");
  const JsonValue list = root_.member("added_tokens");
  std::set<std::string_view> others;  // added tokens that the model's vocabulary does not have
  for (const AddedToken& added : added_) {
    if (!vocab.object().contains(added.content)) others.insert(added.content);
  }
  const std::size_t count = vocab.object().size() + others.size();
  if (count == 0 || count > INT32_MAX) vocab.refuse_as(ErrorCode::kCorruptFile, "at least one piece", "none");
  parts_->tokens.resize(count);
  parts_->ids.reserve(count);
  taken_.assign(count, false);
  for (const auto& [piece, id] : vocab.json().items()) place(vocab, piece, id);
  for (std::size_t i = 0; i < added_.size(); ++i) {
    const AddedToken& added = added_[i];
    const JsonValue where = list.element(i).member("id");
    const auto known = parts_->ids.find(added.content);
    if (known == parts_->ids.end()) {
      place(where, added.content, where.json());
    } else if (known->second != added.id) {
      where.refuse_as(ErrorCode::kCorruptFile, join(known->second, " for ", quote(added.content), ", as elsewhere"),
                      join(added.id));
    }
    token(added.id).special |= added.special;
  }
}

void TokenizerReader::place(const JsonValue& where, const std::string& piece, const Json& id) {
  const std::size_t count = parts_->tokens.size();
  const bool fits = id.is_number_unsigned() && id.get<std::uint64_t>() < count;
  if (!fits) {
    where.refuse_as(ErrorCode::kCorruptFile, join("ids 0 to ", count - 1, " for ", count, " pieces"),
                    join(printable(id.dump()), " for ", quote(piece)), "a vocabulary has no holes");
  }
  // As many pieces as ids: if no id has two pieces, each has one.
  const auto index = id.get<std::size_t>();
  if (taken_[index]) {
    where.refuse_as(ErrorCode::kCorruptFile, "one piece for each id",
                    join(quote(parts_->tokens[index].piece), " and ", quote(piece), " for id ", index));
  }
  taken_[index] = true;
  parts_->tokens[index].piece = piece;
  parts_->ids.emplace(piece, static_cast<std::int32_t>(index));
}

void TokenizerReader::read_decoder() {
  const TokenDecoder decoder(root_.member("decoder"), pretokenizer_.byte_level());
  for (TokenPart& part : parts_->tokens) {
    part.bytes = decoder.bytes(part.piece);
    part.strips = true;
  }
  // Tokens that no merge makes stand for their own text, also where it could be read as a spelling of bytes.
  if (pretokenizer_.byte_level()) {
    for (const AddedToken& added : added_) {
      if (!model_.member("vocab").json().contains(added.content)) token(added.id).bytes = added.content;
    }
  }
  parts_->drop_spaces = parts_->drop_spaces_of_token = decoder.drop_spaces();
}

std::int32_t TokenizerReader::piece_id(const JsonValue& where, const std::string& piece) const {
  const auto found = parts_->ids.find(piece);
  if (found == parts_->ids.end()) {
    where.refuse_as(ErrorCode::kCorruptFile, "pieces of the vocabulary", quote(piece), "which it does not have");
  }
  return found->second;
}

void TokenizerReader::read_merges() {
  const JsonValue list = model_.member("merges");
  const std::size_t count = list.array_size();
  merges_.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    const JsonValue merge = list.element(i);
    std::string left, right;
    if (merge.json().is_array()) {
      if (merge.array_size() != 2) merge.refuse_type("two pieces");
      left = merge.element(0).string();
      right = merge.element(1).string();
    } else {
      const std::string& both = merge.string();
      const std::size_t space = both.find(' ');
      if (space == std::string::npos || both.find(' ', space + 1) != std::string::npos) {
        merge.refuse_type("two pieces with a space between");
      }
      left = both.substr(0, space);
      right = both.substr(space + 1);
    }
    merges_.push_back({piece_id(merge, left), piece_id(merge, right), piece_id(merge, left + right)});
  }
}

void TokenizerReader::read_symbols() {
  const bool byte_level = symbols_.byte_level = pretokenizer_.byte_level();
  symbols_.byte_fallback = !byte_level && model_.member("byte_fallback").boolean_or(false);
  symbols_.fuse_unknown = model_.member("fuse_unk").boolean_or(false);
  symbols_.whole_words = model_.member("ignore_merges").boolean_or(false);
  const JsonValue unknown = model_.member("unk_token");
  if (!unknown.is_null()) symbols_.unknown_id = piece_id(unknown, unknown.string());
  const auto id_of = [&](const std::string& piece) {
    const auto found = parts_->ids.find(piece);
    return found == parts_->ids.end() ? -1 : found->second;
  };
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const char text = static_cast<char>(byte);
    symbols_.byte_ids[byte] = byte_level               ? id_of(to_byte_level({&text, 1}))
                              : symbols_.byte_fallback ? id_of(piece_of_byte(static_cast<unsigned char>(byte)))
                                                       : -1;
  }
  if (byte_level && !symbols_.whole_words) return;
  for (const auto& [piece, id] : model_.member("vocab").json().items()) {
    const std::optional<std::string> text = byte_level ? from_byte_level(piece) : piece;
    const bool character = !piece.empty() && decode_utf8(piece, 0).size == static_cast<int>(piece.size());
    if (text && (symbols_.whole_words || character)) symbols_.ids.emplace(*text, id.get<std::int32_t>());
  }
}

bool TokenizerReader::is_lossless(const Normalizer& normalizer) const {
  const bool same_text = pretokenizer_.byte_level() && normalizer.empty() && pretokenizer_.keeps_text();
  const auto literal = [&](const AddedToken& added) {
    return !added.lstrip && !added.rstrip && token(added.id).bytes == added.content;
  };
  const auto& bytes = symbols_.byte_ids;
  return same_text && std::all_of(bytes.begin(), bytes.end(), [](std::int32_t id) { return id >= 0; }) &&
         std::all_of(added_.begin(), added_.end(), literal);
}

// Without a pre-tokenizer a text is one long word. Where no merge joins anything with a space symbol behind it, words
// may be cut in front of those, which changes no id and lets the cache of words work.
std::string TokenizerReader::find_cut() const {
  if (!pretokenizer_.empty() || symbols_.whole_words || !parts_->ids.contains(std::string(kSpaceSymbol))) return {};
  for (const BpeMerge& merge : merges_) {
    const std::string& piece = token(merge.result).piece;
    for (std::size_t at = piece.find(kSpaceSymbol, 1); at != std::string::npos; at = piece.find(kSpaceSymbol, at + 1)) {
      if (at < kSpaceSymbol.size() || piece.compare(at - kSpaceSymbol.size(), kSpaceSymbol.size(), kSpaceSymbol) != 0) {
        return {};
      }
    }
  }
  return std::string(kSpaceSymbol);
}

class ByteEncoder : public TextEncoder {
 public:
  void encode(std::string_view text, bool /*parse_special*/, std::vector<std::int32_t>& ids) const override {
    ids.reserve(ids.size() + text.size());
    for (const char byte : text) ids.push_back(static_cast<unsigned char>(byte));
  }
};

// Any reader of the format gives each byte its own number as id.
std::string byte_tokenizer_json() {
  Json vocab = Json::object();
  for (int byte = 0; byte < 256; ++byte) {
    const char text = static_cast<char>(byte);
    vocab[to_byte_level({&text, 1})] = byte;
  }
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  const Json json = {{"version", "1.0"},
                     {"added_tokens", Json::array()},
                     {"normalizer", nullptr},
                     {"pre_tokenizer", byte_level},
                     {"post_processor", nullptr},
                     {"decoder", byte_level},
                     {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array()}}}};
  return json.dump(1) + "\n";
}

}  // namespace

std::shared_ptr<TokenizerParts> make_byte_tokenizer() {
  auto parts = std::make_shared<TokenizerParts>();
  parts->kind = TokenizerKind::kBytes;
  parts->source = byte_tokenizer_json();
  parts->lossless = true;
  parts->tokens.resize(256);
  for (std::size_t byte = 0; byte < 256; ++byte) {
    TokenPart& part = parts->tokens[byte];
    part.bytes.assign(1, static_cast<char>(byte));
    part.piece = to_byte_level(part.bytes);
    parts->ids.emplace(part.piece, static_cast<std::int32_t>(byte));
  }
  parts->encoder = std::make_unique<ByteEncoder>();
  return parts;
}

std::shared_ptr<TokenizerParts> read_tokenizer_json(std::string_view text, std::string_view name) {
  if (text == byte_tokenizer_json()) return make_byte_tokenizer();
  JsonOptions options;
  options.unique_keys = true;  // a piece with two ids
  const Json root = parse_json("tokenizer", name, text, options);
  return TokenizerReader(name, root).read(text);
}

}  // namespace coluber
