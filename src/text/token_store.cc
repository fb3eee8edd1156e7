#include "text/token_store.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <limits>

#include "core/check.h"
#include "core/mapped_file.h"
#include "text/token_file.h"

namespace coluber {
namespace {

constexpr const char* kOp = "tokens";
constexpr std::int64_t kMaxVocab = std::int64_t{1} << 31;

[[noreturn]] void corrupt(const std::string& path, const std::string& what, const std::string& expected,
                          const std::string& got, std::string_view hint = {}) {
  refuse_value(ErrorCode::kCorruptFile, kOp, path + ": " + what, expected, got, hint);
}

void check_number(const std::string& path, const std::string& what, std::int64_t least, std::int64_t most,
                  std::int64_t got) {
  if (got < least || got > most) corrupt(path, what, join(least, " to ", most), std::to_string(got));
}

TokenFileHeader read_header(const std::string& path, std::span<const std::byte> bytes) {
  TokenFileHeader header;
  if (bytes.size() < sizeof header) {
    corrupt(path, "size", join("at least the ", sizeof header, " bytes of a header"), std::to_string(bytes.size()));
  }
  std::memcpy(&header, bytes.data(), sizeof header);
  if (std::memcmp(header.magic, kTokenFileMagic, sizeof header.magic) != 0) {
    corrupt(path, "first bytes", kTokenFileMagic, "others", "not a file of tokens");
  }
  if (header.version != kTokenFileVersion) {
    corrupt(path, "version", std::to_string(kTokenFileVersion), std::to_string(header.version));
  }
  if (header.token_bytes != 2 && header.token_bytes != 4) {
    corrupt(path, "bytes of a token", "2 or 4", std::to_string(header.token_bytes));
  }
  const TokenStoreInfo& info = header.info;
  constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max() / 16;  // 4-byte tokens, each a document
  check_number(path, "number of tokens", 0, kMost, info.num_tokens);
  check_number(path, "vocabulary", 1, kMaxVocab, info.vocab_size);
  check_number(path, "number of documents", 0, info.num_tokens, info.num_documents);
  check_number(path, "end-of-text id", -1, info.vocab_size - 1, info.eos_id);
  check_number(path, "bytes of text", 0, std::numeric_limits<std::int64_t>::max(), info.text_bytes);
  return header;
}

void check_ids(std::string_view name, std::span<const std::int32_t> ids, std::int64_t first, std::int64_t vocab_size) {
  std::uint32_t largest = 0;  // negative ones are the largest
  for (const std::int32_t id : ids) largest = std::max(largest, static_cast<std::uint32_t>(id));
  if (largest < vocab_size) return;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const auto id = static_cast<std::uint32_t>(ids[i]);
    if (id < vocab_size) continue;
    refuse_value(ErrorCode::kCorruptFile, kOp, join(name, ": token ", first + static_cast<std::int64_t>(i)),
                 join("an id below the vocabulary of ", vocab_size), join(id));
  }
}

}  // namespace

std::shared_ptr<const TokenStore> TokenStore::open(const std::string& path) {
  return of_file(path, MappedFile::open(kOp, path));
}

std::shared_ptr<const TokenStore> TokenStore::of_file(const std::string& name, std::shared_ptr<MappedFile> file) {
  const std::span<const std::byte> bytes = file->bytes();
  const TokenFileHeader header = read_header(name, bytes);
  const TokenFileExtents extents = token_file_extents(header);
  if (extents.size_bytes != static_cast<std::int64_t>(bytes.size())) {
    corrupt(name, "size",
            join(extents.size_bytes, " bytes for ", header.info.num_tokens, " tokens and ", header.info.num_documents,
                 " documents"),
            std::to_string(bytes.size()), "cut short?");
  }
  const std::shared_ptr<TokenStore> store(new TokenStore());
  store->name_ = name;
  store->info_ = header.info;
  store->token_bytes_ = static_cast<int>(header.token_bytes);
  store->tokens_ = bytes.data() + kTokenFileHeaderBytes;
  store->starts_ = bytes.data() + extents.starts_offset;
  store->file_ = std::move(file);
  store->check_starts();
  return store;
}

std::shared_ptr<const TokenStore> TokenStore::of(std::vector<std::int32_t> ids, std::int64_t vocab_size,
                                                 std::vector<std::int64_t> document_starts, std::int64_t eos_id) {
  if (vocab_size < 1 || vocab_size > kMaxVocab) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "vocab_size", join("1 to ", kMaxVocab), join(vocab_size));
  }
  if (eos_id < -1 || eos_id >= vocab_size) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "eos_id", join("-1 to ", vocab_size - 1), join(eos_id));
  }
  const std::shared_ptr<TokenStore> store(new TokenStore());
  store->name_ = "tokens in memory";
  store->info_.num_tokens = static_cast<std::int64_t>(ids.size());
  store->info_.vocab_size = vocab_size;
  store->info_.num_documents = static_cast<std::int64_t>(document_starts.size());
  store->info_.eos_id = eos_id;
  store->ids_ = std::move(ids);
  store->document_starts_ = std::move(document_starts);
  store->tokens_ = reinterpret_cast<const std::byte*>(store->ids_.data());
  store->starts_ = reinterpret_cast<const std::byte*>(store->document_starts_.data());
  store->check_starts();
  return store;
}

bool TokenStore::is_token_file(const std::string& path) {
  char magic[sizeof TokenFileHeader::magic] = {};
  std::ifstream in(path, std::ios::binary);
  in.read(magic, sizeof magic);
  return in.gcount() == sizeof magic && std::memcmp(magic, kTokenFileMagic, sizeof magic) == 0;
}

// Rising and within the tokens, so that looking one up may halve its way. Costs 8 bytes of reading a document.
void TokenStore::check_starts() const {
  std::int64_t before = -1;
  for (std::int64_t i = 0; i < info_.num_documents; ++i) {
    const std::int64_t here = start(i);
    if (here <= before || here >= info_.num_tokens) {
      refuse_value(file_ ? ErrorCode::kCorruptFile : ErrorCode::kInvalidArgument, kOp,
                   join(name_, ": first token of document ", i), join(before + 1, " to ", info_.num_tokens - 1),
                   join(here));
    }
    before = here;
  }
  if (file_) file_->forget(static_cast<std::size_t>(starts_ - file_->bytes().data()), file_->bytes().size());
}

std::int64_t TokenStore::start(std::int64_t document) const {
  std::int64_t value = 0;
  std::memcpy(&value, starts_ + document * static_cast<std::int64_t>(sizeof value), sizeof value);
  return value;
}

void TokenStore::read(std::int64_t first, std::span<std::int32_t> out) const {
  const auto count = static_cast<std::int64_t>(out.size());
  if (first < 0 || first > info_.num_tokens || count > info_.num_tokens - first) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, name_ + ": range", join("within ", info_.num_tokens, " tokens"),
                 join(count, " from ", first));
  }
  if (count == 0) return;
  const std::int64_t offset = first * token_bytes_;
  if (token_bytes_ == 4) {
    std::memcpy(out.data(), tokens_ + offset, out.size_bytes());
  } else {
    const auto* ids = reinterpret_cast<const std::uint16_t*>(tokens_ + offset);
    std::copy(ids, ids + count, out.begin());
  }
  if (file_) file_->forget(static_cast<std::size_t>(kTokenFileHeaderBytes + offset), out.size() * 4);
  check_ids(name_, out, first, info_.vocab_size);
}

std::int64_t TokenStore::document_start_from(std::int64_t token) const {
  std::int64_t low = 0, high = info_.num_documents;  // documents before `low` start earlier, those from `high` do not
  while (low < high) {
    const std::int64_t middle = low + (high - low) / 2;
    if (start(middle) < token)
      low = middle + 1;
    else
      high = middle;
  }
  return low < info_.num_documents ? start(low) : info_.num_tokens;
}

}  // namespace coluber
