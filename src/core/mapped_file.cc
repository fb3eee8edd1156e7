#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "core/check.h"

namespace coluber {
namespace {

std::string reason(int error) {
  return std::generic_category().message(error);
}

class Descriptor {
 public:
  // O_NONBLOCK: a pipe without a writer is refused below instead of waited for.
  explicit Descriptor(const std::string& path) : value_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {}
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int value() const { return value_; }

 private:
  int value_;
};

}  // namespace

std::shared_ptr<MappedFile> MappedFile::open(std::string_view op, const std::string& path) {
  const Descriptor file(path);
  if (file.value() < 0) {
    const int error = errno;
    if (error == ENOENT || error == ENOTDIR)
      refuse_value(ErrorCode::kNotFound, op, path, "a file", "none", reason(error));
    refuse_value(ErrorCode::kIo, op, path, "a readable file", reason(error));
  }
  return of_descriptor(op, path, file.value());
}

std::shared_ptr<MappedFile> MappedFile::of_descriptor(std::string_view op, const std::string& path, int descriptor) {
  struct stat info {};
  if (::fstat(descriptor, &info) != 0) refuse(ErrorCode::kIo, op, join(path, ": cannot stat: ", reason(errno)));
  if (S_ISDIR(info.st_mode)) refuse_value(ErrorCode::kIo, op, path, "a file", "a folder");
  if (!S_ISREG(info.st_mode)) refuse_value(ErrorCode::kIo, op, path, "a regular file", "a device, pipe or socket");
  if (info.st_size == 0) {
    refuse_value(ErrorCode::kCorruptFile, op, path, "a file with content", "0 bytes", "an interrupted download?");
  }
  const auto size = static_cast<std::size_t>(info.st_size);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, descriptor, 0);
  if (data == MAP_FAILED) {
    refuse(errno == ENOMEM ? ErrorCode::kOutOfMemory : ErrorCode::kIo, op,
           join(path, ": cannot map ", size, " bytes: ", reason(errno)));
  }
  return std::shared_ptr<MappedFile>(new MappedFile(static_cast<const std::byte*>(data), size));
}

void MappedFile::forget(std::size_t offset, std::size_t size) const {
  constexpr std::size_t kAround = 65536;  // a touch maps its neighbours up to this border, too (fault_around_bytes)
  const std::size_t begin = std::min(offset, size_) / kAround * kAround;
  const std::size_t end = std::min(size_, offset + size + kAround - 1);
  if (begin < end) ::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
}

MappedFile::~MappedFile() {
  ::munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace coluber
