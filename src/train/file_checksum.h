// Size and checksum of a file, to tell whether it is the one that was written. Not for secrets: anybody can forge it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace coluber {

// 64 bits over all bytes; every change of one 8-byte word changes it.
std::uint64_t checksum(std::string_view bytes);

struct FileDigest {
  std::int64_t size_bytes = 0;
  std::string checksum;  // 16 hexadecimal digits
};
FileDigest digest_file(const std::string& path);  // throws kNotFound or kIo

// Makes what was written to a file or folder survive a power cut. Throws kIo.
void sync_path(const std::string& path);

}  // namespace coluber
