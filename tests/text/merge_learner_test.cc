// Merges against plain counting: all pairs of all words counted anew for each merge.
#include "text/merge_learner.h"

#include <gtest/gtest.h>

#include <map>

#include "core/rng.h"

namespace coluber::testing {
namespace {

struct Plain {
  std::vector<std::pair<std::vector<std::int32_t>, std::int64_t>> words;
  std::vector<std::string> bytes;
  std::map<std::pair<std::int32_t, std::int32_t>, bool> learned;

  std::int32_t symbol_of(const std::string& text) {
    for (std::size_t id = 1; id < bytes.size(); ++id)
      if (bytes[id] == text) return static_cast<std::int32_t>(id);
    bytes.push_back(text);
    return static_cast<std::int32_t>(bytes.size() - 1);
  }

  bool merge_next(std::int64_t min_count, LearnedMerge& merge) {
    while (true) {
      std::map<std::pair<std::int32_t, std::int32_t>, std::int64_t> counts;  // in the order of ids
      for (const auto& [word, count] : words)
        for (std::size_t i = 0; i + 1 < word.size(); ++i) counts[{word[i], word[i + 1]}] += count;
      merge.count = 0;
      for (const auto& [pair, count] : counts)
        if (count > merge.count) merge = {pair.first, pair.second, 0, count};
      if (merge.count < min_count) return false;
      merge.result =
          symbol_of(bytes[static_cast<std::size_t>(merge.left)] + bytes[static_cast<std::size_t>(merge.right)]);
      for (auto& [word, count] : words)
        for (std::size_t i = 0; i + 1 < word.size(); ++i) {
          if (word[i] != merge.left || word[i + 1] != merge.right) continue;
          word[i] = merge.result;
          word.erase(word.begin() + static_cast<std::ptrdiff_t>(i) + 1);
        }
      if (!std::exchange(learned[{merge.left, merge.right}], true)) return true;
    }
  }
};

void expect_same_merges(const std::vector<std::string>& words, std::int64_t min_count, std::size_t at_least) {
  WordCounts counts;
  for (const std::string& word : words) counts.add(word);
  MergeLearner learner(counts, 1);
  Plain plain;
  plain.bytes.emplace_back();
  for (int byte = 0; byte < 256; ++byte) plain.bytes.emplace_back(1, static_cast<char>(byte));
  for (std::size_t i = 0; i < counts.size(); ++i) {
    std::vector<std::int32_t> symbols;
    for (const char c : counts.word(i)) symbols.push_back(1 + static_cast<unsigned char>(c));
    plain.words.emplace_back(symbols, counts.count(i));
  }
  for (std::size_t number = 0;; ++number) {
    LearnedMerge expected{}, got{};
    const bool more = plain.merge_next(min_count, expected);
    ASSERT_EQ(learner.merge_next(min_count, got), more) << number;
    if (!more) {
      EXPECT_GE(number, at_least);
      return;
    }
    ASSERT_EQ(got.left, expected.left) << number;
    ASSERT_EQ(got.right, expected.right) << number;
    ASSERT_EQ(got.result, expected.result) << number;
    ASSERT_EQ(got.count, expected.count) << number;
    ASSERT_EQ(learner.bytes(got.result), plain.bytes[static_cast<std::size_t>(expected.result)]);
  }
}

TEST(MergeLearner, AgainstPlainCounting) {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    const Rng rng(seed, 1);
    const std::uint64_t letters = 1 + seed % 4;
    std::vector<std::string> words;
    std::uint64_t at = 0;
    for (int i = 0; i < 60; ++i) {
      std::string word;
      for (std::uint64_t size = 1 + rng.below(at++, 12); word.size() < size;)
        word += static_cast<char>('a' + rng.below(at++, letters));
      words.push_back(word);
    }
    expect_same_merges(words, 1 + static_cast<std::int64_t>(seed % 3), 1);
  }
}

// a, b and ab c, a bc: the same bytes from two pairs are one symbol.
TEST(MergeLearner, OneSymbolForTheSameBytes) {
  expect_same_merges({"abx", "abx", "abx", "bcy", "bcy", "bcy", "abc", "abcabc", "zbcz", "aabcc", "xabcx"}, 1, 8);
}

TEST(MergeLearner, RunsOfOneLetter) {
  expect_same_merges({std::string(100, 'a'), std::string(37, 'a'), "aab", "baa", "aaa"}, 1, 6);
}

TEST(MergeLearner, ForbiddenBytesAreNeverMade) {
  WordCounts counts;
  for (int i = 0; i < 10; ++i) counts.add("<end>");
  MergeLearner learner(counts, 1);
  learner.forbid("<end>");
  LearnedMerge merge{};
  int merges = 0;
  while (learner.merge_next(1, merge)) {
    EXPECT_NE(learner.bytes(merge.result), "<end>");
    ++merges;
  }
  EXPECT_EQ(merges, 3);
}

TEST(MergeLearner, NothingToMerge) {
  LearnedMerge merge{};
  EXPECT_FALSE(MergeLearner(WordCounts(), 1).merge_next(1, merge));
  WordCounts counts;
  for (const char* word : {"a", "b", "cd"}) counts.add(word);
  EXPECT_FALSE(MergeLearner(counts, 1).merge_next(2, merge));
}

TEST(WordCounts, CountsManyWords) {
  WordCounts counts;
  for (int round = 1; round <= 3; ++round)
    for (int i = 0; i < 10'000; i += round) counts.add(std::to_string(i));
  ASSERT_EQ(counts.size(), 10'000u);
  for (std::size_t i = 0; i < counts.size(); ++i) {
    EXPECT_EQ(counts.word(i), std::to_string(i));
    EXPECT_EQ(counts.count(i), 1 + (i % 2 == 0 ? 1 : 0) + (i % 3 == 0 ? 1 : 0));
  }
}

}  // namespace
}  // namespace coluber::testing
