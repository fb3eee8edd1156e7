#include "core/threads.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <fstream>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>
#ifdef __linux__
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/check.h"

namespace coluber {
namespace {

// About 50 us at a few ns per pause: longer than the gap between two ops of a small model, short enough for a laptop.
constexpr int kSpins = 2000;
constexpr int kSpinsWhenOversubscribed = 20;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Denormals cost up to 100 times a normal operation, and a decayed state is full of them.
void flush_denormals() {
#if defined(__x86_64__)
  _mm_setcsr(_mm_getcsr() | 0x8040u);  // flush-to-zero and denormals-are-zero
#elif defined(__aarch64__)
  std::uint64_t fpcr;
  asm volatile("mrs %0, fpcr" : "=r"(fpcr));
  asm volatile("msr fpcr, %0" ::"r"(fpcr | (1ull << 24)));
#endif
}

// Restores the caller's floating-point mode when its share of the work is done.
class FlushDenormalsScope {
 public:
#if defined(__x86_64__)
  FlushDenormalsScope() : saved_(_mm_getcsr()) {
    flush_denormals();
  }
  ~FlushDenormalsScope() {
    _mm_setcsr(saved_);
  }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  FlushDenormalsScope() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    flush_denormals();
  }
  ~FlushDenormalsScope() {
    asm volatile("msr fpcr, %0" ::"r"(saved_));
  }

 private:
  std::uint64_t saved_ = 0;
#endif
};

thread_local bool inside_task = false;

// How often this process was forked off since it first made a pool. A child has none of a pool's workers: there the
// pool works on the calling thread alone.
std::atomic<int> forks{0};

void count_forks() {
  [[maybe_unused]] static const int registered =
      pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
}

}  // namespace

struct ThreadPool::Impl {
  std::atomic<std::uint32_t> generation{0};  // bumped once per run; workers wait for the change
  std::atomic<std::uint32_t> pending{0};     // workers that have not finished the current run
  std::atomic<bool> stop{false};
  std::int64_t num_tasks = 0;
  void* fn = nullptr;
  RangeFn call = nullptr;
  std::mutex error_mutex;
  std::exception_ptr error;
  std::vector<std::thread> workers;
  int spins = kSpins;
  const int made_after = forks.load(std::memory_order_relaxed);  // forks

  bool has_threads() const { return forks.load(std::memory_order_relaxed) == made_after; }

  void run_share(int thread, int num_threads) {
    const std::int64_t begin = num_tasks * thread / num_threads;
    const std::int64_t end = num_tasks * (thread + 1) / num_threads;
    if (begin == end) return;
    inside_task = true;
    try {
      call(fn, begin, end, thread);
    } catch (...) {
      std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
    }
    inside_task = false;
  }

  void end() {
    if (!has_threads()) {
      new std::vector<std::thread>(std::move(workers));  // never destroyed: there is nothing to join
      return;
    }
    stop.store(true, std::memory_order_release);
    generation.fetch_add(1, std::memory_order_acq_rel);
    generation.notify_all();
    for (std::thread& worker : workers) worker.join();
    workers.clear();
  }

  void work(int thread, int num_threads) {
    flush_denormals();
    std::uint32_t seen = 0;
    for (;;) {
      for (int i = 0; i < spins && generation.load(std::memory_order_acquire) == seen; ++i) pause();
      generation.wait(seen, std::memory_order_acquire);
      seen = generation.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_acquire)) return;
      run_share(thread, num_threads);
      if (pending.fetch_sub(1, std::memory_order_acq_rel) == 1) pending.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int num_threads) : num_threads_(std::max(num_threads, 1)), impl_(std::make_unique<Impl>()) {
  count_forks();
  if (num_threads_ > available_cores()) impl_->spins = kSpinsWhenOversubscribed;
  try {
    impl_->workers.reserve(static_cast<std::size_t>(num_threads_ - 1));
    for (int thread = 1; thread < num_threads_; ++thread)
      impl_->workers.emplace_back([impl = impl_.get(), thread, n = num_threads_] { impl->work(thread, n); });
  } catch (const std::system_error& error) {
    const std::size_t started = impl_->workers.size() + 1;
    impl_->end();  // a running thread that is destroyed ends the process
    refuse_value(ErrorCode::kUnsupported, "threads", "threads that the system starts", std::to_string(num_threads_),
                 std::to_string(started), error.what());
  }
}

ThreadPool::~ThreadPool() {
  impl_->end();
}

void ThreadPool::run_range(std::int64_t num_tasks, void* fn, RangeFn call) {
  if (num_tasks <= 0) return;
  FlushDenormalsScope denormals;
  if (inside_task || num_threads_ == 1 || num_tasks == 1 || !impl_->has_threads()) {
    call(fn, 0, num_tasks, 0);
    return;
  }
  Impl& impl = *impl_;
  impl.num_tasks = num_tasks;
  impl.fn = fn;
  impl.call = call;
  impl.error = nullptr;
  impl.pending.store(static_cast<std::uint32_t>(num_threads_ - 1), std::memory_order_release);
  impl.generation.fetch_add(1, std::memory_order_acq_rel);
  impl.generation.notify_all();
  impl.run_share(0, num_threads_);
  for (int i = 0; i < impl.spins && impl.pending.load(std::memory_order_acquire) != 0; ++i) pause();
  for (std::uint32_t left; (left = impl.pending.load(std::memory_order_acquire)) != 0;)
    impl.pending.wait(left, std::memory_order_acquire);
  if (impl.error) std::rethrow_exception(impl.error);
}

int available_cores() {
  int cores = static_cast<int>(std::thread::hardware_concurrency());
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) cores = CPU_COUNT(&set);
  std::ifstream quota("/sys/fs/cgroup/cpu.max");  // "max 100000" or "200000 100000"
  std::string limit;
  double period = 0;
  if (quota >> limit >> period && limit != "max" && period > 0) {
    cores = std::min(cores, std::max(1, static_cast<int>(std::ceil(std::stod(limit) / period))));
  }
#endif
  return std::max(cores, 1);
}

}  // namespace coluber
