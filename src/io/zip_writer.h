// Writes a zip archive of stored records, the way torch lays it out: every record starts on a multiple of 64 bytes, so
// that it can be mapped. zip64 fields only where a number needs them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "io/zip_format.h"

namespace coluber {

class ZipWriter {
 public:
  using Sink = std::function<void(const void* data, std::size_t size)>;  // a file, or memory in tests

  // Numbers from `large` on go into zip64 fields; a test sets it lower.
  explicit ZipWriter(Sink sink, std::uint64_t large = zip::kSee64) : sink_(std::move(sink)), large_(large) {}

  void add(const std::string& name, std::span<const std::byte> bytes);
  void finish();  // the list of records

 private:
  struct Entry {
    std::string name;
    std::uint32_t crc = 0;
    std::uint64_t size = 0, offset = 0;
  };
  void write(const std::string& bytes);
  void write_end(std::uint64_t directory_offset);

  Sink sink_;
  std::uint64_t large_;
  std::uint64_t at_ = 0;
  std::vector<Entry> entries_;
};

}  // namespace coluber
