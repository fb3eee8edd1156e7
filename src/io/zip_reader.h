// Where the records of a zip archive lie in memory.
//
// Only what torch writes: records stored as they are, zip64 where sizes need it, no encryption. Own code, because the
// tensors of a checkpoint stay in the mapped file: the zip libraries hand out copies of records and not their place,
// and a reader of stored records only is short enough to check every number against the file before it is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>

namespace coluber {

struct ZipRecord {
  std::span<const std::byte> bytes;
  std::uint32_t crc32 = 0;  // as the archive says; not checked here
};
using ZipRecords = std::map<std::string, ZipRecord>;

// Throws kCorruptFile, or kUnsupported for compressed or encrypted records. `name` stands for the path in refusals.
ZipRecords read_zip(const std::string& name, std::span<const std::byte> bytes);

}  // namespace coluber
