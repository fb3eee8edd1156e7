// The file of tokens byte by byte (text/token_store.h says what is where), and its writer.
//
// The writer does not know how much will come: the header is written over at the end, and the starts of documents wait
// in a file without a name, so that any amount of text passes through constant memory.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "text/token_store.h"
#include "text/unnamed_file.h"

namespace coluber {

inline constexpr std::uint32_t kTokenFileVersion = 1;

struct TokenFileHeader {
  char magic[8] = {'C', 'O', 'L', 'U', 'B', 'T', 'O', 'K'};
  std::uint32_t version = kTokenFileVersion;
  std::uint32_t token_bytes = 4;
  TokenStoreInfo info;  // six times 8 bytes, in the order of the file
};
static_assert(sizeof(TokenFileHeader) == kTokenFileHeaderBytes && sizeof(kTokenFileMagic) == 9);

struct TokenFileExtents {
  std::int64_t starts_offset = 0;
  std::int64_t size_bytes = 0;
};

// Of a header whose numbers were checked.
inline TokenFileExtents token_file_extents(const TokenFileHeader& header) {
  const std::int64_t tokens_bytes = (header.info.num_tokens * header.token_bytes + 7) / 8 * 8;
  const std::int64_t starts = kTokenFileHeaderBytes + tokens_bytes;
  return {starts, starts + 8 * header.info.num_documents};
}

class TokenFileWriter {
 public:
  using Write = std::function<void(const void* data, std::size_t size)>;

  // `write` appends to the file, which is empty so far. Of `known` vocabulary, fingerprint and end-of-text id are used.
  TokenFileWriter(Write write, const TokenStoreInfo& known);

  void begin_document();  // the next token is the first of one
  void append(std::span<const std::int32_t> ids);
  void count_text(std::int64_t bytes) { header_.info.text_bytes += bytes; }
  std::int64_t num_tokens() const { return header_.info.num_tokens; }

  // Writes what is left. The header that is returned belongs over the first bytes of the file.
  TokenFileHeader finish();

 private:
  void write_tokens();
  void write_starts();

  Write write_;
  TokenFileHeader header_;
  std::vector<std::uint16_t> short_ids_;  // of 2-byte tokens, not written yet
  std::vector<std::int32_t> ids_;         // of 4-byte tokens
  std::vector<std::int64_t> starts_;      // not in starts_file_ yet
  UnnamedFile starts_file_;
};

}  // namespace coluber
