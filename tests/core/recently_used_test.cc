#include "core/recently_used.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <thread>
#include <vector>

namespace coluber {
namespace {

// Values that count how many of them there are.
struct Counted {
  explicit Counted(int n) : number(n) { ++alive; }
  ~Counted() { --alive; }
  const int number;
  static inline int alive = 0;
};

struct Fixture {
  RecentlyUsed<int, Counted> kept{3};
  int made = 0;

  std::shared_ptr<const Counted> get(int key) {
    return kept.get(key, [&] {
      ++made;
      return std::make_shared<const Counted>(10 * key);
    });
  }
};

TEST(RecentlyUsed, MakesEachOnce) {
  Fixture f;
  for (int round = 0; round < 4; ++round)
    for (int key = 0; key < 3; ++key) EXPECT_EQ(f.get(key)->number, 10 * key);
  EXPECT_EQ(f.made, 3);
}

TEST(RecentlyUsed, TheOneAskedForLongestAgoGoes) {
  Fixture f;
  for (const int key : {1, 2, 3, 1, 4}) f.get(key);  // 4 in place of 2
  EXPECT_EQ(f.made, 4);
  for (const int key : {1, 3, 4}) f.get(key);
  EXPECT_EQ(f.made, 4);
  f.get(2);  // in place of 1
  EXPECT_EQ(f.made, 5);
  f.get(1);
  EXPECT_EQ(f.made, 6);
}

TEST(RecentlyUsed, HoldsNoMoreThanItMay) {
  const int before = Counted::alive;
  {
    Fixture f;
    for (int key = 0; key < 100; ++key) {
      f.get(key);
      EXPECT_LE(Counted::alive - before, 3);
    }
    const auto held = f.get(0);
    for (int key = 1; key < 10; ++key) f.get(key);
    EXPECT_EQ(held->number, 0);  // by who asked for it, though its place has gone
    EXPECT_EQ(Counted::alive - before, 4);
  }
  EXPECT_EQ(Counted::alive, before);
}

TEST(RecentlyUsed, WhatThrowsIsMadeAgain) {
  Fixture f;
  const auto fails = []() -> std::shared_ptr<const Counted> { throw std::runtime_error("no"); };
  EXPECT_THROW(f.kept.get(1, fails), std::runtime_error);
  EXPECT_EQ(f.get(1)->number, 10);
  EXPECT_EQ(f.kept.get(1, fails)->number, 10);
}

TEST(RecentlyUsed, ManyThreads) {
  RecentlyUsed<int, int> kept(5);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (std::size_t i = 0; i < wrong.size(); ++i) {
    threads.emplace_back([&, i] {
      for (int n = 0; n < 5000; ++n) {
        const int key = n * (static_cast<int>(i) + 3) % 17;
        if (*kept.get(key, [&] { return std::make_shared<const int>(key); }) != key) ++wrong[i];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4));
}

}  // namespace
}  // namespace coluber
