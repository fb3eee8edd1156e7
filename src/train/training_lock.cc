#include "train/training_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "coluber/train.h"
#include "core/atomic_file.h"
#include "core/check.h"

namespace coluber {
namespace {

// Some network file systems have no locks. Nobody can be told there, and training works as well as without.
bool is_unsupported(int error) {
  return error == ENOSYS || error == EOPNOTSUPP || error == ENOLCK || error == EINVAL;
}

[[noreturn]] void refuse_in_use(const std::string& out, const std::string& path) {
  std::int64_t process = 0;
  std::ifstream(path) >> process;
  refuse_value(ErrorCode::kIo, "train", "out", "a folder that no other training writes to",
               join(out, ", in use", process > 0 ? join(" by process ", process) : std::string()),
               "wait for its end or stop it, or choose another folder");
}

}  // namespace

TrainingLock::TrainingLock(const std::string& out) : path_(out + "/training.lock") {
  ensure_directory(out);
  while (descriptor_ < 0) {
    descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor_ < 0) {
      refuse(ErrorCode::kIo, "train", join("cannot write ", path_, ": ", std::strerror(errno)));
    }
    const int error = ::flock(descriptor_, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
    if (error == 0 && is_at_path()) break;
    if (is_unsupported(error)) break;
    ::close(descriptor_);
    descriptor_ = -1;
    if (error == EWOULDBLOCK) refuse_in_use(out, path_);
    if (error != 0 && error != EINTR) {
      refuse(ErrorCode::kIo, "train", join("cannot lock ", path_, ": ", std::strerror(error)));
    }
  }
  const std::string process = join(::getpid(), "\n");  // of use in a sentence alone: a full disk may refuse it
  if (::ftruncate(descriptor_, 0) == 0) {
    [[maybe_unused]] const auto written = ::pwrite(descriptor_, process.data(), process.size(), 0);
  }
}

TrainingLock::~TrainingLock() {
  ::unlink(path_.c_str());  // before the lock goes: whoever has it opened by then sees that it is gone
  ::close(descriptor_);
}

// Between open and flock the one who held it may have removed it.
bool TrainingLock::is_at_path() const {
  struct stat locked {
  }, named{};
  return ::fstat(descriptor_, &locked) == 0 && ::stat(path_.c_str(), &named) == 0 && locked.st_dev == named.st_dev &&
         locked.st_ino == named.st_ino;
}

std::shared_ptr<TrainingLock> lock_training(const std::string& out) {
  return std::make_shared<TrainingLock>(out);
}

}  // namespace coluber
