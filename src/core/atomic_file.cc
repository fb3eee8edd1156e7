#include "core/atomic_file.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "core/check.h"

namespace coluber {
namespace {

namespace fs = std::filesystem;

// Linux writes at most 2^31 - 4096 bytes a call.
constexpr std::size_t kMaxWriteBytes = std::size_t{1} << 30;

std::string reason(int error) {
  return std::generic_category().message(error);
}

std::string folder_of(const std::string& path) {
  const std::string folder = fs::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

bool is_full(int error) {
  return error == ENOSPC || error == EDQUOT || error == EFBIG;
}

// Names of files are on the disk only when their folder is synced; some file systems cannot and need not (EINVAL).
int sync_folder(const std::string& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return errno == EACCES ? 0 : errno;  // writable but not readable: nothing to be done
  const int error = ::fsync(descriptor) == 0 || errno == EINVAL ? 0 : errno;
  ::close(descriptor);
  return error;
}

}  // namespace

AtomicFile::AtomicFile(std::string_view op, std::string path, std::int64_t size_bytes)
    : op_(op), path_(std::move(path)), size_bytes_(size_bytes) {
  create_temporary();
  if (size_bytes_ > 0) reserve();
}

AtomicFile::~AtomicFile() {
  discard();
}

void AtomicFile::discard() {
  if (descriptor_ >= 0) ::close(descriptor_);
  descriptor_ = -1;
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
  temporary_.clear();
}

// The rename at the end would put a file in the place of a link, or of a device such as /dev/null.
void AtomicFile::follow_links() {
  std::error_code error;
  for (int depth = 0; fs::is_symlink(path_, error) && depth < 40; ++depth) {  // as many as Linux follows
    path_ = (fs::path(path_).parent_path() / fs::read_symlink(path_, error)).string();
    if (error) break;
  }
  const fs::file_status status = fs::status(path_, error);
  if (fs::is_directory(status)) refuse_value(ErrorCode::kIo, op_, path_, "a path for a file", "a folder");
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    refuse_value(ErrorCode::kIo, op_, path_, "a path for a regular file", "a device, pipe or socket");
  }
}

void AtomicFile::create_temporary() {
  static std::atomic<unsigned> counter{0};
  if (path_.empty()) refuse_value(ErrorCode::kIo, op_, "path of a file to write", "a name", "an empty one");
  follow_links();
  const fs::path target(path_);
  for (int attempt = 0; attempt < 100; ++attempt) {
    const std::string name = join(".", target.filename().string(), ".", ::getpid(), "-", counter.fetch_add(1), ".tmp");
    const std::string candidate = (target.parent_path() / name).string();
    descriptor_ = ::open(candidate.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ >= 0) {
      temporary_ = candidate;
      return;
    }
    if (errno != EEXIST) break;  // a leftover of a process that was killed
  }
  fail("create a file beside it", errno);
}

// Takes the blocks now, where the file system can: a full disk shows before gigabytes were written, and the file lies
// in one piece.
void AtomicFile::reserve() {
  int result = 0;
  do {
    result = ::fallocate(descriptor_, FALLOC_FL_KEEP_SIZE, 0, size_bytes_);
  } while (result != 0 && errno == EINTR);
  if (result != 0 && is_full(errno)) fail("write", errno);
}

void AtomicFile::write(const void* data, std::size_t size) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t count = ::write(descriptor_, at, std::min(size, kMaxWriteBytes));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      const int error = count < 0 ? errno : ENOSPC;
      size_bytes_ = std::max(size_bytes_, written_bytes_ + static_cast<std::int64_t>(size));
      fail("write", error);
    }
    at += count;
    size -= static_cast<std::size_t>(count);
    written_bytes_ += count;
  }
}

void AtomicFile::rewrite(std::int64_t offset, const void* data, std::size_t size) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t count = ::pwrite(descriptor_, at, size, offset);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail("rewrite", count < 0 ? errno : EIO);
    at += count;
    offset += count;
    size -= static_cast<std::size_t>(count);
  }
}

void AtomicFile::sync() {
  if (synced_) return;
  // gives back what was reserved and not used
  if (size_bytes_ > written_bytes_ && ::ftruncate(descriptor_, written_bytes_) != 0) fail("cut", errno);
  if (::fsync(descriptor_) != 0) fail("sync", errno);
  const int descriptor = descriptor_;
  descriptor_ = -1;
  if (::close(descriptor) != 0 && errno != EINTR) fail("close", errno);  // network disks report a full disk here
  synced_ = true;
}

void AtomicFile::commit() {
  sync();
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("rename a finished file to it", errno);
  temporary_.clear();
  const int error = sync_folder(folder_of(path_));
  if (error != 0) fail("sync the folder", error);
}

void AtomicFile::fail(std::string_view doing, int error) {
  discard();  // a constructor that throws has no destructor; and what the file took counts as free again
  std::string hint;
  if (size_bytes_ > 0) hint = join("; ", size_bytes_, " bytes are needed");
  struct statvfs disk {};
  if (error == ENOSPC && ::statvfs(folder_of(path_).c_str(), &disk) == 0) {
    hint += join(", ", disk.f_bavail * disk.f_frsize, " are free");
  }
  refuse(ErrorCode::kIo, op_, join(path_, ": cannot ", doing, ": ", reason(error), hint));
}

void write_file_atomically(const std::string& path, std::string_view text) {
  AtomicFile file("file", path, static_cast<std::int64_t>(text.size()));
  file.write(text.data(), text.size());
  file.commit();
}

void ensure_directory(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (fs::is_directory(path)) return;  // create_directories reports an error for "a/" that exists
  refuse(ErrorCode::kIo, "file",
         join(path, ": cannot create the folder: ", error ? error.message() : "a file has that name"));
}

}  // namespace coluber
