// What becomes of locks when the process forks: a child has the forking thread alone, so a lock that another thread
// held at that moment would stay locked for good. Used by what every child needs: memory, products.
#pragma once

#include <pthread.h>

namespace coluber {

// Forks of this process, from the first call on, wait for the mutex (or whatever has lock() and unlock()) that `get`
// returns, and both sides find it free.
template <auto& get>
void hold_across_forks() {
  [[maybe_unused]] static const int registered =
      pthread_atfork([] { get().lock(); }, [] { get().unlock(); }, [] { get().unlock(); });
}

}  // namespace coluber
