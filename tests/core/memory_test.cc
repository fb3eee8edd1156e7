#include "core/memory.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "coluber/context.h"
#include "coluber/tensor.h"
#include "core/arena.h"
#include "core/sanitizer.h"
#include "tests/support/forked.h"
#include "tests/support/tensors.h"

namespace coluber {
namespace {

TEST(Memory, LargeBlocksAreReused) {
  const std::int64_t bytes = 3 << 20;
  void* first = allocate_cpu(bytes).get();
  EXPECT_EQ(allocate_cpu(bytes).get(), first);
  EXPECT_EQ(allocate_cpu(bytes - 1000).get(), first);  // of the same class
}

TEST(Memory, CountsWhatLives) {
  release_cached_memory();
  const MemoryStats before = memory_stats();
  reset_memory_peak();
  {
    const Tensor a = Tensor::empty({1 << 20}, DType::kF32);
    EXPECT_EQ(memory_stats().live_bytes - before.live_bytes, 4 << 20);
    const Tensor b = Tensor::empty({1 << 20}, DType::kF32);
  }
  EXPECT_EQ(memory_stats().live_bytes, before.live_bytes);
  EXPECT_EQ(memory_stats().peak_bytes - before.live_bytes, 8 << 20);
  EXPECT_EQ(memory_stats().cached_bytes, 8 << 20);
  reset_memory_peak();
  EXPECT_EQ(memory_stats().peak_bytes, before.live_bytes);
  release_cached_memory();
  EXPECT_EQ(memory_stats().cached_bytes, 0);
}

// Sizes that never come again must not pile up: live + cached stays within 1.25 of the highest live plus 32 MiB.
TEST(Memory, TheCacheIsBounded) {
  release_cached_memory();
  const std::int64_t base = memory_stats().live_bytes;
  std::int64_t highest = 0;
  for (std::int64_t mib = 1; mib < 64; ++mib) {
    const Tensor t = Tensor::empty({mib << 20}, DType::kU8);
    highest = std::max(highest, memory_stats().live_bytes);
    const MemoryStats stats = memory_stats();
    EXPECT_LE(stats.live_bytes + stats.cached_bytes, highest + highest / 4 + (32 << 20));
  }
  EXPECT_EQ(memory_stats().live_bytes, base);
  release_cached_memory();
}

TEST(Memory, RefusesWhatNoMachineHas) {
  const auto said = [](std::int64_t elements) {
    return testing::refusal([&] { Tensor::empty({elements}, DType::kF64); });
  };
  for (std::int64_t elements : {std::int64_t{1} << 50, std::int64_t{1} << 59, (std::int64_t{1} << 60) - 1}) {
    const std::string sentence = said(elements);
    EXPECT_EQ(
        sentence.find("[memory] allocation: expected " + std::to_string(8 * elements) + " bytes free, got none ("), 0u)
        << sentence;
  }
  try {
    Tensor::empty({std::int64_t{1} << 50}, DType::kF64);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
  }
}

TEST(Memory, ServesManyThreadsAtOnce) {
  std::vector<std::thread> threads;
  for (int n = 0; n < 4; ++n) {
    threads.emplace_back([n] {
      for (int i = 0; i < 200; ++i) {
        const Tensor t = Tensor::full({20000 + 1000 * (i % 7)}, n, DType::kF32);
        ASSERT_EQ(t.at({19999}), n);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// The cache and the arena hide from AddressSanitizer what malloc and free would show it, unless they tell.
TEST(Memory, EndsAndFreedBlocksAreKnownToAddressSanitizer) {
#ifdef COLUBER_HAS_ASAN
  const auto forbidden = [](const void* p) { return __asan_address_is_poisoned(p) != 0; };
  std::byte* kept = nullptr;
  for (const std::int64_t bytes :
       {std::int64_t{1}, std::int64_t{100}, std::int64_t{100'000}, std::int64_t{3'000'001}}) {
    const auto block = allocate_cpu(bytes);
    kept = static_cast<std::byte*>(block.get());
    EXPECT_FALSE(forbidden(kept + bytes - 1)) << bytes;
    EXPECT_TRUE(forbidden(kept + bytes)) << bytes;
  }
  EXPECT_TRUE(forbidden(kept));
  release_cached_memory();

  Arena arena;
  const Arena::Mark start = arena.mark();
  for (int round = 0; round < 2; ++round) {
    auto* a = static_cast<std::byte*>(arena.allocate_bytes(100));
    EXPECT_TRUE(forbidden(a + 100));
    const Arena::Mark mark = arena.mark();
    auto* b = static_cast<std::byte*>(arena.allocate_bytes(5 << 20));
    arena.allocate_bytes(64);
    EXPECT_FALSE(forbidden(b));
    arena.release(mark);
    EXPECT_TRUE(forbidden(b));
    EXPECT_FALSE(forbidden(a + 99));
    arena.release(start);
    EXPECT_TRUE(forbidden(a));
  }
#else
  GTEST_SKIP() << "a build with AddressSanitizer only";
#endif
}

// A child has none of the threads that held a lock when it was made.
TEST(Memory, IsThereInAForkedChildWhateverOtherThreadsDid) {
  constexpr std::int64_t kBytes = 1 << 17;  // cached
  std::atomic<bool> stop{false};
  std::vector<std::thread> others;
  for (int i = 0; i < 3; ++i) {
    others.emplace_back([&] {
      while (!stop) allocate_cpu(kBytes);
    });
  }
  bool works = true;
  for (int i = 0; i < 100 && works; ++i) works = testing::true_in_child([] { return allocate_cpu(kBytes) != nullptr; });
  stop = true;
  for (std::thread& other : others) other.join();
  EXPECT_TRUE(works);
}

}  // namespace
}  // namespace coluber
