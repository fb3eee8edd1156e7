#include "text/unnamed_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <system_error>

#include "core/check.h"
#include "core/mapped_file.h"

namespace coluber {
namespace {

std::string temporary_folder() {
  const char* wanted = std::getenv("TMPDIR");
  if (wanted != nullptr && *wanted != '\0') return wanted;
  return ::access("/var/tmp", W_OK | X_OK) == 0 ? "/var/tmp" : "/tmp";
}

int open_unnamed(const std::string& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
  if (descriptor >= 0) return descriptor;
  std::string name = folder + "/coluber-XXXXXX";  // a file system that always wants a name has it for a moment
  const int named = ::mkostemp(name.data(), O_CLOEXEC);
  if (named >= 0) ::unlink(name.c_str());
  return named;
}

}  // namespace

UnnamedFile::UnnamedFile(std::string_view op)
    : op_(op), folder_(temporary_folder()), descriptor_(open_unnamed(folder_)) {
  if (descriptor_ >= 0) return;
  refuse(ErrorCode::kIo, op_,
         join(folder_, ": cannot create a temporary file: ", std::generic_category().message(errno),
              " (TMPDIR names another folder)"));
}

UnnamedFile::~UnnamedFile() {
  ::close(descriptor_);
}

void UnnamedFile::write(const void* data, std::size_t size) {
  rewrite(size_bytes_, data, size);
  size_bytes_ += static_cast<std::int64_t>(size);
}

void UnnamedFile::rewrite(std::int64_t offset, const void* data, std::size_t size) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t count = ::pwrite(descriptor_, at, size, offset);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      refuse(ErrorCode::kIo, op_,
             join(folder_, ": cannot write ", size, " bytes of a temporary file: ",
                  std::generic_category().message(count < 0 ? errno : ENOSPC), " (TMPDIR names another folder)"));
    }
    at += count;
    offset += count;
    size -= static_cast<std::size_t>(count);
  }
}

std::shared_ptr<MappedFile> UnnamedFile::map(const std::string& name) const {
  return MappedFile::of_descriptor(op_, name, descriptor_);
}

}  // namespace coluber
