#include "core/threads.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <memory>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "coluber/error.h"
#include "tests/support/forked.h"

namespace coluber {
namespace {

TEST(ThreadPool, RunsEveryTaskOnce) {
  for (int threads : {1, 2, 3, 7}) {
    ThreadPool pool(threads);
    for (std::int64_t tasks : {0, 1, 2, 3, 10, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks));
      pool.run(tasks, [&](std::int64_t task) { ++runs[static_cast<std::size_t>(task)]; });
      for (const auto& count : runs) ASSERT_EQ(count, 1);
    }
  }
}

TEST(ThreadPool, WorksInAForkedChild) {
  const auto works = [](ThreadPool& pool) {
    std::vector<int> runs(100);
    pool.run(100, [&](std::int64_t task) { ++runs[static_cast<std::size_t>(task)]; });
    return runs == std::vector<int>(100, 1);
  };
  auto pool = std::make_unique<ThreadPool>(3);
  EXPECT_TRUE(works(*pool));
  EXPECT_TRUE(testing::true_in_child([&] {
    const bool with_parents = works(*pool);
    pool.reset();
    ThreadPool own(2);
    return with_parents && works(own) && testing::true_in_child([&] { return works(own); });
  }));
  EXPECT_TRUE(works(*pool));
}

TEST(ThreadPool, SharesAreContiguousAndCoverAll) {
  ThreadPool pool(3);
  std::vector<int> owner(10, -1);
  pool.run_shares(10, [&](std::int64_t begin, std::int64_t end, int thread) {
    EXPECT_EQ(begin, 10 * thread / 3);
    EXPECT_EQ(end, 10 * (thread + 1) / 3);
    for (std::int64_t i = begin; i < end; ++i) owner[static_cast<std::size_t>(i)] = thread;
  });
  EXPECT_EQ(owner, (std::vector<int>{0, 0, 0, 1, 1, 1, 2, 2, 2, 2}));
}

TEST(ThreadPool, ManyShortRunsInARow) {
  ThreadPool pool(3);
  std::int64_t sum = 0;
  std::vector<std::int64_t> part(3);
  // For half a second, and often enough: on a busy machine a run may wait for its worker's turn, some milliseconds.
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(500);
  std::int64_t runs = 0;
  for (; runs < 200 || (runs < 20000 && std::chrono::steady_clock::now() < end); ++runs) {
    pool.run(3, [&](std::int64_t task) { part[static_cast<std::size_t>(task)] = task + runs; });
    sum += part[0] + part[1] + part[2];
  }
  EXPECT_EQ(sum, 3 * runs + 3 * runs * (runs - 1) / 2);
}

TEST(ThreadPool, WakesAfterASleep) {
  ThreadPool pool(2);
  for (int i = 0; i < 3; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // workers have gone to sleep
    std::atomic<int> runs = 0;
    pool.run(2, [&](std::int64_t) { ++runs; });
    EXPECT_EQ(runs, 2);
  }
}

TEST(ThreadPool, RethrowsWhenAllHaveEnded) {
  for (int threads : {1, 3}) {
    ThreadPool pool(threads);
    std::atomic<int> ended = 0;
    EXPECT_THROW(pool.run(3,
                          [&](std::int64_t task) {
                            if (task == 1) throw std::runtime_error("task 1");
                            ++ended;
                          }),
                 std::runtime_error);
    EXPECT_EQ(ended, threads == 1 ? 1 : 2);
    std::atomic<int> runs = 0;  // and the pool goes on
    pool.run(5, [&](std::int64_t) { ++runs; });
    EXPECT_EQ(runs, 5);
  }
}

TEST(ThreadPool, NestedRunsStayOnTheirThread) {
  ThreadPool pool(3);
  std::atomic<int> runs = 0;
  pool.run(3, [&](std::int64_t) {
    const auto self = std::this_thread::get_id();
    pool.run(4, [&](std::int64_t) {
      EXPECT_EQ(std::this_thread::get_id(), self);
      ++runs;
    });
  });
  EXPECT_EQ(runs, 12);
}

TEST(ThreadPool, TasksFlushDenormalsAndCallersDoNot) {
#if defined(__x86_64__) || defined(__aarch64__)
  for (int threads : {1, 3}) {
    ThreadPool pool(threads);
    volatile float tiny = std::numeric_limits<float>::denorm_min();
    std::atomic<int> flushed = 0;
    pool.run(3, [&](std::int64_t) { flushed += tiny * 1.0f == 0.0f; });
    EXPECT_EQ(flushed, 3);
    EXPECT_NE(tiny * 1.0f, 0.0f);
  }
#endif
}

// RLIMIT_AS stands for every limit that a system may set: the pool that does not fit is refused, not a crash.
TEST(ThreadPool, RefusesThreadsThatTheSystemDoesNotStart) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer needs the address space";
#endif
#ifdef COLUBER_EMULATED
  GTEST_SKIP() << "qemu-user sets no limit of the address space, and starts no program without binfmt";
#endif
  const auto child = [] {
    const rlimit limit{1u << 30, 1u << 30};  // 1 GiB holds some 8 MiB stacks, not a thousand
    setrlimit(RLIMIT_AS, &limit);
    try {
      ThreadPool pool(1000);
    } catch (const Error& error) {
      const std::string text = error.what();
      std::_Exit(text.find("[threads] threads that the system starts: expected 1000, got ") == 0 ? 0 : 2);
    }
    std::_Exit(1);
  };
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(child(), ::testing::ExitedWithCode(0), "");
}

TEST(AvailableCores, IsAtLeastOne) {
  EXPECT_GE(available_cores(), 1);
  EXPECT_LE(available_cores(), static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
}

}  // namespace
}  // namespace coluber
