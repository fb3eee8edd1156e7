// Token ids in a file, mapped, or in memory: what PackedDataset reads.
//
// The file, little-endian:
//   offset  size
//        0     8  magic "COLUBTOK"
//        8     4  version, 1
//       12     4  bytes of a token: 2 or 4
//       16     8  number of tokens
//       24     8  vocabulary: every id is below
//       32     8  fingerprint of the tokenizer, 0: unknown
//       40     8  number of documents, 0: not listed
//       48     8  end-of-text id, -1: none
//       56     8  bytes of text that the tokens stand for, 0: unknown
//       64        tokens; zeros up to a multiple of 8; then for each document the index (8 bytes) of its first token
// Where documents are not listed, an end-of-text id opens each (packed_dataset.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace coluber {

class MappedFile;

inline constexpr char kTokenFileMagic[] = "COLUBTOK";
inline constexpr std::int64_t kTokenFileHeaderBytes = 64;

struct TokenStoreInfo {
  std::int64_t num_tokens = 0;
  std::int64_t vocab_size = 0;
  std::uint64_t tokenizer_fingerprint = 0;
  std::int64_t num_documents = 0;
  std::int64_t eos_id = -1;
  std::int64_t text_bytes = 0;
};

class TokenStore {
 public:
  // Opening costs the same for any number of tokens (and reads where documents start, 8 bytes each); ids are checked
  // when they are read. Throws kCorruptFile naming both numbers when header and size of the file disagree.
  static std::shared_ptr<const TokenStore> open(const std::string& path);
  static std::shared_ptr<const TokenStore> of_file(const std::string& name, std::shared_ptr<MappedFile> file);
  static std::shared_ptr<const TokenStore> of(std::vector<std::int32_t> ids, std::int64_t vocab_size,
                                              std::vector<std::int64_t> document_starts = {}, std::int64_t eos_id = -1);
  static bool is_token_file(const std::string& path);  // by the magic

  const TokenStoreInfo& info() const { return info_; }
  const std::string& name() const { return name_; }  // path, or "tokens in memory"

  // Tokens [first, first + out.size()). Throws kCorruptFile on an id beyond the vocabulary, naming its place.
  void read(std::int64_t first, std::span<std::int32_t> out) const;
  // The first start of a document at or after `token`; num_tokens when there is none. Only where documents are listed.
  std::int64_t document_start_from(std::int64_t token) const;

 private:
  TokenStore() = default;
  void check_starts() const;
  std::int64_t start(std::int64_t document) const;

  std::string name_;
  TokenStoreInfo info_;
  std::shared_ptr<MappedFile> file_;  // null: in memory
  int token_bytes_ = 4;
  const std::byte* tokens_ = nullptr;
  const std::byte* starts_ = nullptr;
  std::vector<std::int32_t> ids_;
  std::vector<std::int64_t> document_starts_;
};

}  // namespace coluber
