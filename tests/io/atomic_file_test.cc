#include "core/atomic_file.h"

#include <sys/mount.h>
#include <sys/wait.h>

#include "coluber/error.h"
#include "io/safetensors.h"
#include "io/torch_bin.h"
#include "tests/support/file_size_limit.h"
#include "tests/support/files.h"
#include "tests/support/tensors.h"

namespace coluber::testing {
namespace {

// A disk of its own; needs the right to mount.
class SmallDisk {
 public:
  SmallDisk() { ok_ = ::mount("none", folder_.path().c_str(), "tmpfs", 0, "size=1m") == 0; }
  ~SmallDisk() {
    if (ok_) ::umount(folder_.path().c_str());
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;
  bool ok() const { return ok_; }
  const TemporaryFolder& folder() const { return folder_; }

 private:
  TemporaryFolder folder_;
  bool ok_ = false;
};

TensorMap two_megabytes() {
  return {{"w", random_tensor({512, 1024}, DType::kF32, 7)}};
}

TEST(AtomicFile, WritesAndReplaces) {
  const TemporaryFolder folder;
  write_file_atomically(folder / "a", "first, and longer");
  write_file_atomically(folder / "a", "second");
  EXPECT_EQ(read_bytes(folder / "a"), "second");
  EXPECT_EQ(folder.num_files(), 1u);
}

TEST(AtomicFile, WritesThroughLinksAndLeavesDevices) {
  const TemporaryFolder folder;
  write_bytes(folder / "target", "old");
  std::filesystem::create_symlink("target", folder / "link");
  write_file_atomically(folder / "link", "new");
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "link"));
  EXPECT_EQ(read_bytes(folder / "target"), "new");
  std::filesystem::create_symlink("/dev/null", folder / "device");
  EXPECT_THROW(write_file_atomically(folder / "device", "x"), Error);
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
  EXPECT_THROW(write_file_atomically("", "x"), Error);
}

TEST(AtomicFile, WithoutCommitTheOldFileStays) {
  const TemporaryFolder folder;
  write_bytes(folder / "a", "old");
  {
    AtomicFile file("test", folder / "a");
    file.write("new", 3);
    file.sync();
    EXPECT_EQ(read_bytes(folder / "a"), "old");
  }
  EXPECT_EQ(read_bytes(folder / "a"), "old");
  EXPECT_EQ(folder.num_files(), 1u);
}

// What a reader sees when the writer is killed in the middle.
TEST(AtomicFile, AKilledWriterLeavesTheOldFile) {
  const TemporaryFolder folder;
  write_bytes(folder / "a", "old");
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    AtomicFile file("test", folder / "a");
    file.write("new", 3);
    ::raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(read_bytes(folder / "a"), "old");
}

TEST(AtomicFile, ReservedSpaceThatIsNotUsedIsGivenBack) {
  const TemporaryFolder folder;
  AtomicFile file("test", folder / "a", 1 << 20);
  file.write("x", 1);
  file.commit();
  EXPECT_EQ(std::filesystem::file_size(folder / "a"), 1u);
  struct stat info {};
  ASSERT_EQ(::stat((folder / "a").c_str(), &info), 0);
  EXPECT_LE(info.st_blocks * 512, 64 << 10);
}

void expect_full(const std::string& sentence, const std::string& path) {
  EXPECT_NE(sentence.find(path), std::string::npos) << sentence;
  EXPECT_NE(sentence.find("bytes are needed"), std::string::npos) << sentence;
}

TEST(AtomicFile, AFullDiskKeepsTheOldFileAndSaysWhatWasNeeded) {
  const SmallDisk disk;
  if (!disk.ok()) GTEST_SKIP() << "mounting a tmpfs is not allowed here";
  const std::string path = disk.folder() / "model.safetensors";
  write_safetensors(path, {{"w", Tensor::full({4}, 1, DType::kF32)}});
  const std::string before = read_bytes(path);
  for (const auto& write : std::vector<std::function<void()>>{
           [&] { write_safetensors(path, two_megabytes()); }, [&] { write_torch_bin(path, two_megabytes()); },
           [&] { write_file_atomically(path, std::string(2 << 20, 'x')); },
           [&] {
             AtomicFile file("test", path);  // size not known before
             const std::string block(300'000, 'x');
             for (int i = 0; i < 7; ++i) file.write(block.data(), block.size());
           }}) {
    const std::string sentence = refusal(write);
    expect_full(sentence, path);
    EXPECT_NE(sentence.find("No space left on device"), std::string::npos) << sentence;
    EXPECT_NE(sentence.find("free"), std::string::npos) << sentence;
    EXPECT_EQ(read_bytes(path), before);
    EXPECT_EQ(disk.folder().num_files(), 1u);
  }
}

TEST(AtomicFile, AFullDiskKeepsTheOldShards) {
  const SmallDisk disk;
  if (!disk.ok()) GTEST_SKIP() << "mounting a tmpfs is not allowed here";
  const TensorMap small = {{"a", Tensor::full({1000}, 1, DType::kF32)}, {"b", Tensor::full({1000}, 2, DType::kF32)}};
  const TensorMap large = {{"a", Tensor::full({150'000}, 1, DType::kF32)},
                           {"b", Tensor::full({150'000}, 2, DType::kF32)}};
  write_safetensors_sharded(disk.folder().path(), small, 4000);
  expect_full(refusal([&] { write_safetensors_sharded(disk.folder().path(), large, 600'000); }), disk.folder().path());
  EXPECT_EQ(disk.folder().num_files(), 3u);
  for (const char* name : {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}) {
    EXPECT_EQ(SafetensorsFile::open(disk.folder() / name).tensors().begin()->second.numel(), 1000);
  }
}

TEST(AtomicFile, AFileSizeLimitIsAnErrorToo) {
  const TemporaryFolder folder;
  const std::string path = folder / "a";
  write_bytes(path, "old");
  std::string sentence;
  {
    const FileSizeLimit limit(64 << 10);
    sentence = refusal([&] { write_safetensors(path, two_megabytes()); });
  }
  expect_full(sentence, path);
  EXPECT_EQ(read_bytes(path), "old");
  EXPECT_EQ(folder.num_files(), 1u);
}

TEST(AtomicFile, FolderThatCannotBeWritten) {
  const TemporaryFolder folder;
  EXPECT_NE(refusal([&] { write_file_atomically(folder / "none/a", "x"); }).find("No such file or directory"),
            std::string::npos);
  EXPECT_NE(refusal([] { write_file_atomically("/proc/coluber-test", "x"); }).find("/proc/coluber-test"),
            std::string::npos);
  std::filesystem::permissions(folder.path(), std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
  const uid_t before = ::geteuid();
  if (before == 0) {
    ASSERT_EQ(::seteuid(65534), 0);  // root may write everywhere, nobody may not
  }
  const std::string sentence = refusal([&] { write_file_atomically(folder / "a", "x"); });
  ASSERT_EQ(::seteuid(before), 0);
  EXPECT_NE(sentence.find("Permission denied"), std::string::npos) << sentence;
}

TEST(AtomicFile, TargetThatIsAFolder) {
  const TemporaryFolder folder;
  ensure_directory(folder / "a");
  EXPECT_NE(refusal([&] { write_file_atomically(folder / "a", "x"); }).find("a folder"), std::string::npos);
  EXPECT_EQ(folder.num_files(), 1u);
}

TEST(EnsureDirectory, MakesAllAndAcceptsWhatIsThere) {
  const TemporaryFolder folder;
  ensure_directory(folder / "a/b/c/");
  ensure_directory(folder / "a/b/c");
  EXPECT_TRUE(std::filesystem::is_directory(folder / "a/b/c"));
  write_bytes(folder / "file", "");
  const std::string sentence = refusal([&] { ensure_directory(folder / "file/x"); });
  EXPECT_NE(sentence.find("cannot create the folder"), std::string::npos) << sentence;
  EXPECT_NE(refusal([&] { ensure_directory(folder / "file"); }).find("file"), std::string::npos);
}

}  // namespace
}  // namespace coluber::testing
