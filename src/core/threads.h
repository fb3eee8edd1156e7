// ThreadPool: a few threads that spin for a moment, then sleep.
//
// run(n, f) calls f(task) for task in [0, n) and returns when all are done. Tasks are handed out in contiguous, static
// shares: thread i of t takes [n i / t, n (i+1) / t). A kernel whose tasks do not depend on the thread count therefore
// gives the same bits on any number of threads. The caller works too; nested calls run inline on the calling thread.
//
// Between calls workers spin for about 50 us (an op of a small model comes sooner) and then sleep on a futex, so an
// idle process uses no CPU.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

namespace coluber {

class ThreadPool {
 public:
  explicit ThreadPool(int num_threads);  // >= 1, the caller included
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // f(std::int64_t task). The first exception thrown by a task is rethrown here after all tasks have ended.
  template <class F>
  void run(std::int64_t num_tasks, F&& f) {
    using Fn = std::remove_reference_t<F>;
    run_range(num_tasks, const_cast<void*>(static_cast<const void*>(std::addressof(f))),
              [](void* fn, std::int64_t begin, std::int64_t end, int) {
                for (std::int64_t task = begin; task < end; ++task) (*static_cast<Fn*>(fn))(task);
              });
  }

  // f(begin, end, thread): the share of each thread at once, for kernels that keep per-thread scratch.
  template <class F>
  void run_shares(std::int64_t num_tasks, F&& f) {
    using Fn = std::remove_reference_t<F>;
    run_range(num_tasks, const_cast<void*>(static_cast<const void*>(std::addressof(f))),
              [](void* fn, std::int64_t begin, std::int64_t end, int thread) {
                (*static_cast<Fn*>(fn))(begin, end, thread);
              });
  }

 private:
  using RangeFn = void (*)(void* fn, std::int64_t begin, std::int64_t end, int thread);
  void run_range(std::int64_t num_tasks, void* fn, RangeFn call);

  struct Impl;
  int num_threads_;
  std::unique_ptr<Impl> impl_;
};

// Cores this process may use (affinity mask and cgroup quota), at least 1.
int available_cores();

}  // namespace coluber
