#pragma once

#include <atomic>
#include <string_view>

#include "coluber/error.h"

namespace coluber::python {

// Long calls let other threads run Python, and those may call the same object: refused rather than mixed up.
class Exclusive {
 public:
  Exclusive(std::atomic<bool>& busy, std::string_view what) : busy_(busy) {
    if (busy_.exchange(true)) {
      throw Error(ErrorCode::kInvalidArgument, what,
                  "expected one call at a time, got another while one is running (make one object for each thread)");
    }
  }
  ~Exclusive() { busy_ = false; }
  Exclusive(const Exclusive&) = delete;
  Exclusive& operator=(const Exclusive&) = delete;

 private:
  std::atomic<bool>& busy_;
};

}  // namespace coluber::python
