#include "train/file_checksum.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "coluber/error.h"

namespace coluber {
namespace {

std::string sample(std::size_t size) {
  std::string bytes(size, '\0');
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 31 + i / 256);
  return bytes;
}

TEST(Checksum, ChangesWithEveryByteAndLength) {
  for (const std::size_t size : {1u, 7u, 8u, 31u, 32u, 33u, 100u}) {
    const std::string bytes = sample(size);
    std::set<std::uint64_t> seen = {checksum(bytes)};
    for (std::size_t i = 0; i < size; ++i) {
      std::string other = bytes;
      other[i] = static_cast<char>(other[i] ^ 1);
      seen.insert(checksum(other));
    }
    seen.insert(checksum(bytes + '\0'));
    seen.insert(checksum(bytes.substr(1)));
    EXPECT_EQ(seen.size(), size + 3);
  }
}

TEST(Checksum, OfAFileIsThatOfItsBytes) {
  const std::string path = ::testing::TempDir() + "checksum_test.bin";
  for (const std::size_t size : {std::size_t{0}, std::size_t{5}, std::size_t{1} << 20, (std::size_t{1} << 21) + 13}) {
    const std::string bytes = sample(size);
    std::ofstream(path, std::ios::binary) << bytes;
    const FileDigest digest = digest_file(path);
    EXPECT_EQ(digest.size_bytes, static_cast<std::int64_t>(size));
    EXPECT_EQ(std::stoull(digest.checksum, nullptr, 16), checksum(bytes));
  }
  EXPECT_THROW(digest_file(path + ".missing"), Error);
}

}  // namespace
}  // namespace coluber
