// Tokenizers from files and into files; tokenizer_config.json beside them.
#include <filesystem>

#include "coluber/tokenizer.h"
#include "core/atomic_file.h"
#include "core/check.h"
#include "core/json.h"
#include "core/mapped_file.h"
#include "text/json_value.h"
#include "text/sentencepiece_model.h"
#include "text/tokenizer_json.h"

namespace coluber {
namespace {

namespace fs = std::filesystem;

constexpr const char* kJsonName = "tokenizer.json";
constexpr const char* kModelName = "tokenizer.model";
constexpr const char* kConfigName = "tokenizer_config.json";

std::string find_file(const std::string& path) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) return path;
  for (const char* name : {kJsonName, kModelName}) {
    const std::string file = (fs::path(path) / name).string();
    if (fs::exists(file, ignored)) return file;
  }
  refuse_value(ErrorCode::kNotFound, "tokenizer", path, "a folder with tokenizer.json or tokenizer.model",
               "one with neither", "\"bytes\" needs no file");
}

bool looks_like_json(const std::string& path, std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  return path.ends_with(".json") || (first != std::string_view::npos && text[first] == '{');
}

std::string_view text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

// "</s>", or {"content": "</s>", ...}. Null says that there is none.
void read_mark(const JsonValue& value, const TokenizerParts& parts, std::int64_t& id) {
  id = -1;
  if (value.is_null()) return;
  const JsonValue content = value.json().is_object() ? value.member("content") : value;
  const auto found = parts.ids.find(content.string());
  if (found == parts.ids.end()) content.refuse_type("a token of the tokenizer beside it");
  id = found->second;
}

void read_config(const std::string& path, TokenizerParts& parts) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return;
  const Json root = read_json_file("tokenizer", path);
  const JsonValue config(path, root);
  if (config.object().contains("bos_token")) read_mark(config.member("bos_token"), parts, parts.bos_id);
  if (config.object().contains("eos_token")) read_mark(config.member("eos_token"), parts, parts.eos_id);
}

// For a folder that gets a tokenizer whose begin and end are not those that its file alone tells.
std::string config_of(const TokenizerParts& parts) {
  const auto piece = [&](std::int64_t id) -> Json {
    if (id < 0) return nullptr;
    return parts.tokens[static_cast<std::size_t>(id)].piece;
  };
  return Json{{"bos_token", piece(parts.bos_id)}, {"eos_token", piece(parts.eos_id)}}.dump(2) + "\n";
}

std::shared_ptr<TokenizerParts> read_parts(std::string_view text, const std::string& name) {
  return looks_like_json(name, text) ? read_tokenizer_json(text, name) : read_sentencepiece_model(text, name);
}

}  // namespace

void TokenizerParts::find_begin_and_end() {
  // In the order of precedence; a token that ends a text opens the next one where none of its own does.
  const auto first_of = [&](std::initializer_list<const char*> names) -> std::int64_t {
    for (const char* name : names) {
      const auto found = ids.find(name);
      if (found != ids.end() && tokens[static_cast<std::size_t>(found->second)].special) return found->second;
    }
    return -1;
  };
  bos_id = first_of({"<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<|endoftext|>"});
  eos_id = first_of({"</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>"});
}

std::shared_ptr<const Tokenizer> Tokenizer::load(const std::string& path) {
  if (path == "bytes") return bytes();
  const std::string file = find_file(path);
  const auto mapped = MappedFile::open("tokenizer", file);
  const std::shared_ptr<TokenizerParts> parts = read_parts(text_of(*mapped), file);
  read_config((fs::path(file).parent_path() / kConfigName).string(), *parts);
  return std::make_shared<Tokenizer>(parts);
}

std::shared_ptr<const Tokenizer> Tokenizer::bytes() {
  static const auto tokenizer = std::make_shared<const Tokenizer>(make_byte_tokenizer());
  return tokenizer;
}

std::shared_ptr<const Tokenizer> Tokenizer::from_json(std::string_view json, std::string_view name) {
  return std::make_shared<Tokenizer>(read_tokenizer_json(json, name));
}

std::string Tokenizer::file_name() const {
  return kind() == TokenizerKind::kSentencePiece ? kModelName : kJsonName;
}

void Tokenizer::save(const std::string& path) const {
  std::error_code ignored;
  const bool folder = fs::is_directory(path, ignored);
  write_file_atomically(folder ? (fs::path(path) / file_name()).string() : path, parts_->source);
  if (!folder) return;
  const std::string config = (fs::path(path) / kConfigName).string();
  const auto plain = read_parts(parts_->source, file_name());
  read_config(config, *plain);
  if (plain->bos_id != bos_id() || plain->eos_id != eos_id()) write_file_atomically(config, config_of(*parts_));
}

}  // namespace coluber
