// One training at a time writes to a folder: two would remove each other's checkpoints.
//
// OUT/training.lock is locked with flock for as long as the object lives and holds the number of its process. The
// system frees the lock of a process that ends in whatever way, so what a killed one leaves behind is a file that
// blocks nobody. The file goes with the lock.
#pragma once

#include <string>

namespace coluber {

class TrainingLock {
 public:
  explicit TrainingLock(const std::string& out);  // the folder is made when it is not there
  ~TrainingLock();
  TrainingLock(const TrainingLock&) = delete;
  TrainingLock& operator=(const TrainingLock&) = delete;

 private:
  bool is_at_path() const;

  std::string path_;
  int descriptor_ = -1;
};

}  // namespace coluber
