// Text to token ids and back.
//
//   auto tokenizer = Tokenizer::load("model");                  // a model folder or a file; "bytes" needs none
//   std::vector<std::int32_t> ids = tokenizer->encode("In the beginning");
//   StreamDecoder decoder(*tokenizer);
//   for (std::int32_t id : ids) show(decoder.feed(id));         // whole characters only
//   show(decoder.flush());
//
// Three kinds: bytes (id = byte), byte-pair encoding from a tokenizer.json in the format of Hugging Face's `tokenizers`
// (same ids as that library), and SentencePiece models through their own library.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace coluber {

struct TokenizerParts;

enum class TokenizerKind : std::uint8_t { kBytes, kBpe, kSentencePiece };
std::string_view tokenizer_kind_name(TokenizerKind kind);  // "bytes", "bpe", "sentencepiece"

struct EncodeOptions {
  // Special tokens spelled in the text ("<|endoftext|>") become their ids. Text of strangers wants false. SentencePiece
  // models never do this.
  bool parse_special = true;
  bool add_bos = false;  // the beginning-of-text id in front; refused when there is none
  bool add_eos = false;  // the end-of-text id behind; refused when there is none
};

struct DecodeOptions {
  bool skip_special = false;  // special tokens decode to nothing
};

// A handle: copies share one immutable table. Any number of threads may use it at once.
class Tokenizer {
 public:
  // `path`: tokenizer.json, a SentencePiece model, a folder with tokenizer.json or tokenizer.model, or the word
  // "bytes". tokenizer_config.json beside the file names the begin and end of text; without it well-known names are
  // looked for. Throws kNotFound, kCorruptFile for files that are cut or contradict themselves, kUnsupported naming the
  // part of the file, or the library missing in this build.
  static std::shared_ptr<const Tokenizer> load(const std::string& path);
  static std::shared_ptr<const Tokenizer> bytes();  // 256 ids, no special token
  // The text of a tokenizer.json; `name` stands for it in refusals.
  static std::shared_ptr<const Tokenizer> from_json(std::string_view json, std::string_view name = "tokenizer.json");

  // Bytes that are not UTF-8 are kept when lossless(); else each ill-formed part becomes U+FFFD first.
  std::vector<std::int32_t> encode(std::string_view text, const EncodeOptions& options = {}) const;
  // Valid UTF-8: bytes that form no character come out as U+FFFD, one for each maximal ill-formed part.
  std::string decode(std::span<const std::int32_t> ids, const DecodeOptions& options = {}) const;
  // The same without that repair: decode_bytes(encode(x)) == x for every x when lossless().
  std::string decode_bytes(std::span<const std::int32_t> ids, const DecodeOptions& options = {}) const;

  // One more than the largest id with a text. Models round it up: ids from here to the next multiple of 128 decode to
  // nothing, others are refused (kInvalidArgument).
  std::int64_t vocab_size() const;
  std::optional<std::int32_t> token_id(std::string_view piece) const;  // by its spelling in the file: "<s>", "Ġthe"
  std::string token_piece(std::int32_t id) const;                      // that spelling
  const std::string& token_bytes(std::int32_t id) const;               // what it adds to a text: " the"
  bool is_special(std::int32_t id) const;
  std::int64_t bos_id() const;  // -1: none
  std::int64_t eos_id() const;  // -1: none

  TokenizerKind kind() const;
  bool lossless() const;                     // decode_bytes(encode(x)) == x for every x
  std::uint64_t fingerprint() const;         // of the content: the same for a copy of the file, another for any other
  std::string file_name() const;             // "tokenizer.json" or "tokenizer.model": the name that load() looks for
  void save(const std::string& path) const;  // a file, written atomically; or a folder, which gets file_name()

  explicit Tokenizer(std::shared_ptr<const TokenizerParts> parts) : parts_(std::move(parts)) {}

 private:
  friend class StreamDecoder;
  std::shared_ptr<const TokenizerParts> parts_;
};

// Decodes one token at a time: everything fed so far and flushed is decode() of the same ids. Shows text as soon as it
// is certain; holds back at most three bytes that may still become a character. A value: copies go on separately.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, const DecodeOptions& options = {});
  std::string feed(std::int32_t id);
  std::string flush();  // what was held back, as U+FFFD; afterwards a new text begins

 private:
  std::shared_ptr<const TokenizerParts> parts_;
  DecodeOptions options_;
  std::string held_;                 // the beginning of a character
  std::int32_t spaces_to_drop_ = 0;  // at the front of the text, those that encoding put there
};

}  // namespace coluber
