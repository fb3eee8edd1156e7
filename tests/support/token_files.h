// Files of tokens put together byte by byte, by the table in text/token_store.h and without the writer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/support/files.h"

namespace coluber::testing {

struct TokenFileFields {
  std::string magic = "COLUBTOK";
  std::uint32_t version = 1;
  std::uint32_t token_bytes = 2;
  std::int64_t num_tokens = 6;
  std::int64_t vocab_size = 300;
  std::uint64_t fingerprint = 77;
  std::int64_t num_documents = 2;
  std::int64_t eos_id = 0;
  std::int64_t text_bytes = 20;
  std::vector<std::uint32_t> ids = {0, 5, 299, 0, 7, 8};
  std::vector<std::int64_t> starts = {0, 3};
};

inline std::string token_file(const TokenFileFields& f) {
  std::string bytes = f.magic + le(f.version) + le(f.token_bytes) + le(f.num_tokens) + le(f.vocab_size) +
                      le(f.fingerprint) + le(f.num_documents) + le(f.eos_id) + le(f.text_bytes);
  for (const std::uint32_t id : f.ids) bytes += f.token_bytes == 4 ? le(id) : le(static_cast<std::uint16_t>(id));
  while (bytes.size() % 8 != 0) bytes += '\0';
  for (const std::int64_t start : f.starts) bytes += le(start);
  return bytes;
}

}  // namespace coluber::testing
