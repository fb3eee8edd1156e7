#include "text/token_file.h"

#include <algorithm>

#include "core/mapped_file.h"

namespace coluber {
namespace {

constexpr std::size_t kBlock = 1 << 16;  // tokens or starts that are written together: 128 to 512 KiB
constexpr std::size_t kCopyBytes = 1 << 20;

}  // namespace

TokenFileWriter::TokenFileWriter(Write write, const TokenStoreInfo& known)
    : write_(std::move(write)), starts_file_("tokens") {
  header_.info.vocab_size = known.vocab_size;
  header_.info.tokenizer_fingerprint = known.tokenizer_fingerprint;
  header_.info.eos_id = known.eos_id;
  header_.token_bytes = known.vocab_size <= 65536 ? 2 : 4;
  write_(&header_, sizeof header_);
}

void TokenFileWriter::begin_document() {
  starts_.push_back(header_.info.num_tokens);
  ++header_.info.num_documents;
  if (starts_.size() >= kBlock) write_starts();
}

void TokenFileWriter::append(std::span<const std::int32_t> ids) {
  header_.info.num_tokens += static_cast<std::int64_t>(ids.size());
  if (header_.token_bytes == 2) {
    for (const std::int32_t id : ids) short_ids_.push_back(static_cast<std::uint16_t>(id));
  } else {
    ids_.insert(ids_.end(), ids.begin(), ids.end());
  }
  if (short_ids_.size() + ids_.size() >= kBlock) write_tokens();
}

void TokenFileWriter::write_tokens() {
  write_(short_ids_.data(), short_ids_.size() * sizeof(std::uint16_t));
  write_(ids_.data(), ids_.size() * sizeof(std::int32_t));
  short_ids_.clear();
  ids_.clear();
}

void TokenFileWriter::write_starts() {
  starts_file_.write(starts_.data(), starts_.size() * sizeof(std::int64_t));
  starts_.clear();
}

TokenFileHeader TokenFileWriter::finish() {
  write_tokens();
  constexpr char kZeros[8] = {};
  const std::int64_t tokens_end = kTokenFileHeaderBytes + header_.info.num_tokens * header_.token_bytes;
  write_(kZeros, static_cast<std::size_t>(token_file_extents(header_).starts_offset - tokens_end));
  if (starts_file_.size_bytes() > 0) {
    const std::shared_ptr<MappedFile> file = starts_file_.map("starts of documents");
    const std::size_t size = file->bytes().size();
    for (std::size_t at = 0; at < size; at += kCopyBytes) {
      write_(file->bytes().data() + at, std::min(kCopyBytes, size - at));
      file->forget(at, kCopyBytes);
    }
  }
  write_(starts_.data(), starts_.size() * sizeof(std::int64_t));
  return header_;
}

}  // namespace coluber
