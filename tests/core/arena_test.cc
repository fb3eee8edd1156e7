#include "core/arena.h"

#include <gtest/gtest.h>

#include <cstring>

namespace coluber {
namespace {

TEST(Arena, IsAlignedAndDoesNotOverlap) {
  Arena arena;
  ArenaScope scope(arena);
  std::vector<std::pair<char*, std::int64_t>> parts;
  for (std::int64_t size : {1, 64, 65, 1000, 1 << 20, 3, 5 << 20, 100}) {
    char* p = scope.allocate<char>(size);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(p) % 64, 0u);
    std::memset(p, static_cast<int>(parts.size()), static_cast<std::size_t>(size));
    parts.emplace_back(p, size);
  }
  for (std::size_t i = 0; i < parts.size(); ++i)
    for (std::int64_t j = 0; j < parts[i].second; ++j) ASSERT_EQ(parts[i].first[j], static_cast<char>(i));
}

TEST(Arena, ASteadyStateAllocatesNothing) {
  Arena arena;
  auto work = [&] {
    ArenaScope outer(arena);
    float* a = outer.allocate<float>(100000);
    {
      ArenaScope inner(arena);
      inner.allocate<double>(700000);
      inner.allocate<char>(1);
    }
    outer.allocate<float>(500000);
    return a;
  };
  const float* first = work();
  const std::int64_t capacity = arena.capacity_bytes();
  for (int i = 0; i < 5; ++i) EXPECT_EQ(work(), first);
  EXPECT_EQ(arena.capacity_bytes(), capacity);
}

TEST(Arena, ReleasesToTheMark) {
  Arena arena;
  ArenaScope outer(arena);
  outer.allocate<char>(10);
  char* a = nullptr;
  {
    ArenaScope inner(arena);
    a = inner.allocate<char>(10);
  }
  EXPECT_EQ(outer.allocate<char>(10), a);
}

TEST(Arena, AnEmptyBlockThatIsTooSmallIsReplaced) {
  Arena arena;
  for (std::int64_t mib : {1, 2, 40, 200}) {
    ArenaScope scope(arena);
    std::memset(scope.allocate<char>(mib << 20), 1, static_cast<std::size_t>(mib << 20));
    EXPECT_LE(arena.capacity_bytes(), std::max<std::int64_t>(mib, 2 * mib) << 20);
  }
}

TEST(Arena, OuterAllocationsSurviveInnerGrowth) {
  Arena arena;
  ArenaScope outer(arena);
  char* kept = outer.allocate<char>(1 << 20);
  std::memset(kept, 7, 1 << 20);
  for (std::int64_t mib : {1, 3, 9, 100}) {
    ArenaScope inner(arena);
    char* p = inner.allocate<char>(mib << 20);
    std::memset(p, 1, static_cast<std::size_t>(mib << 20));
  }
  for (std::int64_t i = 0; i < 1 << 20; ++i) ASSERT_EQ(kept[i], 7);
}

TEST(Arena, NothingIsSomething) {
  Arena arena;
  ArenaScope scope(arena);
  EXPECT_NE(scope.allocate<float>(0), nullptr);
  EXPECT_NE(scope.allocate<float>(0), scope.allocate<float>(0));
}

}  // namespace
}  // namespace coluber
