#include <sys/stat.h>

#include "core/mapped_file.h"
#include "tests/support/files.h"
#include "tests/support/refusals.h"

namespace coluber::testing {
namespace {

TEST(MappedFile, ShowsTheBytesAsLongAsAnybodyHoldsIt) {
  const TemporaryFolder folder;
  write_bytes(folder / "a", "some bytes");
  const auto file = MappedFile::open("test", folder / "a");
  std::filesystem::remove(folder / "a");  // the mapping keeps them
  const auto bytes = file->bytes();
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), "some bytes");
}

const TemporaryFolder& bad_paths() {
  static const TemporaryFolder folder;
  static const bool made = [] {
    write_bytes(folder / "empty", "");
    return ::mkfifo((folder / "pipe").c_str(), 0600) == 0;
  }();
  EXPECT_TRUE(made);
  return folder;
}

std::vector<RefusalCase> bad_path_cases() {
  const auto open = [](const char* name) { return [name] { MappedFile::open("test", bad_paths() / name); }; };
  return {
      {"Missing", ErrorCode::kNotFound, {"/missing", "a file", "none"}, open("missing")},
      {"BelowAFile", ErrorCode::kNotFound, {"/empty/x", "none"}, open("empty/x")},
      {"Folder", ErrorCode::kIo, {"a folder"}, [] { MappedFile::open("test", bad_paths().path()); }},
      {"Empty", ErrorCode::kCorruptFile, {"/empty", "0 bytes"}, open("empty")},
      {"Pipe", ErrorCode::kIo, {"/pipe", "regular file"}, open("pipe")},
      {"Device", ErrorCode::kIo, {"/dev/null", "device"}, [] { MappedFile::open("test", "/dev/null"); }},
  };
}

INSTANTIATE_TEST_SUITE_P(BadPaths, Refusals, ::testing::ValuesIn(bad_path_cases()), refusal_name);

}  // namespace
}  // namespace coluber::testing
