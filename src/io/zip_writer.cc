#include "io/zip_writer.h"

#include <algorithm>

#include "io/crc32.h"

namespace coluber {
namespace {

constexpr std::uint64_t kRecordAlignment = 64;
constexpr std::uint16_t kPaddingExtra = 0x4246;  // "FB", as torch marks it
constexpr std::uint16_t kVersion = 20, kVersion64 = 45;
constexpr std::uint32_t kDate = 0x00210000;  // 1 January 1980, 0:00: the same bytes on every run

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

}  // namespace

void ZipWriter::write(const std::string& bytes) {
  sink_(bytes.data(), bytes.size());
  at_ += bytes.size();
}

void ZipWriter::add(const std::string& name, std::span<const std::byte> bytes) {
  const Entry entry{name, crc32(bytes), bytes.size(), at_};
  const bool wide = entry.size >= large_;
  const auto narrow_size = wide ? zip::kSee64 : static_cast<std::uint32_t>(entry.size);
  std::string extra;
  if (wide) {
    put(extra, zip::kZip64Extra);
    put(extra, std::uint16_t{16});
    put(extra, entry.size);
    put(extra, entry.size);
  }
  const std::uint64_t unpadded = at_ + zip::kLocalHeaderBytes + name.size() + extra.size() + 4;
  const std::uint64_t padding = (kRecordAlignment - unpadded % kRecordAlignment) % kRecordAlignment;
  put(extra, kPaddingExtra);
  put(extra, static_cast<std::uint16_t>(padding));
  extra.append(padding, 'Z');

  std::string header;
  put(header, zip::kLocalHeader);
  put(header, wide ? kVersion64 : kVersion);
  put(header, std::uint16_t{0});  // flags
  put(header, std::uint16_t{0});  // method: stored
  put(header, kDate);
  put(header, entry.crc);
  put(header, narrow_size);
  put(header, narrow_size);
  put(header, static_cast<std::uint16_t>(name.size()));
  put(header, static_cast<std::uint16_t>(extra.size()));
  write(header + name + extra);
  sink_(bytes.data(), bytes.size());
  at_ += bytes.size();
  entries_.push_back(entry);
}

void ZipWriter::finish() {
  const std::uint64_t directory_offset = at_;
  for (const Entry& entry : entries_) {
    const bool wide_size = entry.size >= large_, wide_offset = entry.offset >= large_;
    std::string extra;
    if (wide_size || wide_offset) {
      put(extra, zip::kZip64Extra);
      put(extra, static_cast<std::uint16_t>((wide_size ? 16 : 0) + (wide_offset ? 8 : 0)));
      if (wide_size) put(extra, entry.size);
      if (wide_size) put(extra, entry.size);
      if (wide_offset) put(extra, entry.offset);
    }
    const auto narrow_size = wide_size ? zip::kSee64 : static_cast<std::uint32_t>(entry.size);
    std::string header;
    put(header, zip::kCentralHeader);
    put(header, extra.empty() ? kVersion : kVersion64);  // made by
    put(header, extra.empty() ? kVersion : kVersion64);  // needed
    put(header, std::uint16_t{0});                       // flags
    put(header, std::uint16_t{0});                       // method: stored
    put(header, kDate);
    put(header, entry.crc);
    put(header, narrow_size);
    put(header, narrow_size);
    put(header, static_cast<std::uint16_t>(entry.name.size()));
    put(header, static_cast<std::uint16_t>(extra.size()));
    put(header, std::uint16_t{0});  // comment
    put(header, std::uint16_t{0});  // disk
    put(header, std::uint16_t{0});  // internal attributes
    put(header, std::uint32_t{0});  // external attributes
    put(header, wide_offset ? zip::kSee64 : static_cast<std::uint32_t>(entry.offset));
    write(header + entry.name + extra);
  }
  write_end(directory_offset);
}

void ZipWriter::write_end(std::uint64_t directory_offset) {
  const std::uint64_t count = entries_.size(), size = at_ - directory_offset;
  std::string end;
  if (count >= zip::kSee64Count || size >= large_ || directory_offset >= large_) {
    const std::uint64_t end64_offset = at_;
    put(end, zip::kEnd64);
    put(end, std::uint64_t{zip::kEnd64Bytes - 12});  // behind this field
    put(end, kVersion64);
    put(end, kVersion64);
    put(end, std::uint32_t{0});  // disk
    put(end, std::uint32_t{0});  // disk of the list
    put(end, count);
    put(end, count);
    put(end, size);
    put(end, directory_offset);
    put(end, zip::kEnd64Locator);
    put(end, std::uint32_t{0});  // its disk
    put(end, end64_offset);
    put(end, std::uint32_t{1});  // disks
  }
  const bool wide = !end.empty();
  const auto narrow_count = wide ? zip::kSee64Count : static_cast<std::uint16_t>(count);
  put(end, zip::kEnd);
  put(end, std::uint16_t{0});  // disk
  put(end, std::uint16_t{0});  // disk of the list
  put(end, narrow_count);
  put(end, narrow_count);
  put(end, wide ? zip::kSee64 : static_cast<std::uint32_t>(size));
  put(end, wide ? zip::kSee64 : static_cast<std::uint32_t>(directory_offset));
  put(end, std::uint16_t{0});  // comment
  write(end);
}

}  // namespace coluber
