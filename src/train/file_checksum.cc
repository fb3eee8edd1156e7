#include "train/file_checksum.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "core/check.h"
#include "core/hash.h"

namespace coluber {
namespace {

constexpr std::uint64_t kPrime = 0x9E3779B97F4A7C15ull;  // odd: multiplication loses nothing
constexpr std::uint64_t kStart = 0x243F6A8885A308D3ull;

// Words go round to four chains, so that the multiplications overlap.
class Checksum {
 public:
  void add_block(const char* bytes, std::size_t size) {  // size a multiple of 32, but for the last
    std::size_t at = 0;
    for (; at + 32 <= size; at += 32) {
      for (std::size_t lane = 0; lane < 4; ++lane) mix(lane, word(bytes + at + 8 * lane, 8));
    }
    for (std::size_t lane = 0; at < size; lane = (lane + 1) % 4, at += 8) {
      mix(lane, word(bytes + at, std::min<std::size_t>(8, size - at)));
    }
    size_ += size;
  }
  std::uint64_t value() {
    std::uint64_t sum = size_;
    for (const std::uint64_t lane : lanes_) {
      sum = (sum ^ lane) * kPrime;
      sum ^= sum >> 29;
    }
    return sum;
  }

 private:
  static std::uint64_t word(const char* bytes, std::size_t size) {
    std::uint64_t w = 0;
    std::memcpy(&w, bytes, size);
    return w;
  }
  void mix(std::size_t lane, std::uint64_t w) {
    lanes_[lane] = (lanes_[lane] ^ w) * kPrime;
    lanes_[lane] ^= lanes_[lane] >> 32;
  }

  std::uint64_t lanes_[4] = {kStart, kStart + 1, kStart + 2, kStart + 3};
  std::uint64_t size_ = 0;
};

class File {
 public:
  File(const std::string& path, int flags) : descriptor_(::open(path.c_str(), flags | O_CLOEXEC)) {
    if (descriptor_ < 0) {
      const int error = errno;
      refuse(error == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo, "file",
             join("cannot open ", path, ": ", std::strerror(error)));
    }
  }
  ~File() { ::close(descriptor_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int descriptor() const { return descriptor_; }

 private:
  int descriptor_;
};

}  // namespace

std::uint64_t checksum(std::string_view bytes) {
  Checksum sum;
  sum.add_block(bytes.data(), bytes.size());
  return sum.value();
}

FileDigest digest_file(const std::string& path) {
  const File file(path, O_RDONLY);
  std::vector<char> buffer(1 << 20);
  Checksum sum;
  FileDigest digest;
  for (;;) {
    std::size_t filled = 0;  // whole blocks but for the last, however little one read gives
    while (filled < buffer.size()) {
      const ssize_t got = ::read(file.descriptor(), buffer.data() + filled, buffer.size() - filled);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) refuse(ErrorCode::kIo, "file", join("cannot read ", path, ": ", std::strerror(errno)));
      if (got == 0) break;
      filled += static_cast<std::size_t>(got);
    }
    sum.add_block(buffer.data(), filled);
    digest.size_bytes += static_cast<std::int64_t>(filled);
    if (filled < buffer.size()) break;
  }
  digest.checksum = hexadecimal(sum.value());
  return digest;
}

void sync_path(const std::string& path) {
  const File file(path, O_RDONLY);
  if (::fsync(file.descriptor()) != 0 && errno != EINVAL) {  // EINVAL: this file system has no such thing
    refuse(ErrorCode::kIo, "file", join("cannot sync ", path, ": ", std::strerror(errno)));
  }
}

}  // namespace coluber
