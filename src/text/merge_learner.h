// Learns the merges of byte-pair encoding from counted words (arXiv 1508.07909).
//
// All words lie one behind the other in one array of symbols, a gap between them. Each pair of neighbours knows how
// often it comes (weighted by its words) and where; a merge visits those places alone and corrects the counts of the
// pairs beside it. A heap finds the next pair; its entries grow stale and are corrected when they come up, which is
// right because a count grows only when a symbol is made, and then the pair is entered anew. So a vocabulary costs what
// its merges touch, not a pass over the text for each.
#pragma once

#include <cstdint>
#include <queue>
#include <string>
#include <unordered_map>
#include <vector>

#include "text/word_counts.h"

namespace coluber {

struct LearnedMerge {
  std::int32_t left, right, result;
  std::int64_t count;  // how often the pair came when it was merged
};

class MergeLearner {
 public:
  // Symbols: the byte b is `first_byte_id` + b; those that are made count on from first_byte_id + 256.
  MergeLearner(const WordCounts& words, std::int32_t first_byte_id);

  // The most frequent pair, of equals the one of lower ids, becomes one symbol: a new one, or one that has the same
  // bytes already. False when no pair comes `min_count` times.
  bool merge_next(std::int64_t min_count, LearnedMerge& merge);
  // Never makes a symbol of these bytes; to be said first.
  void forbid(const std::string& bytes) { known_.emplace(bytes, kForbidden); }

  std::int32_t num_symbols() const { return static_cast<std::int32_t>(bytes_.size()); }  // first_byte_id included
  const std::string& bytes(std::int32_t symbol) const { return bytes_[static_cast<std::size_t>(symbol)]; }

 private:
  using Place = std::uint32_t;
  static constexpr std::int32_t kGap = -1;     // between words
  static constexpr std::int32_t kInside = -2;  // of a symbol that begins further left
  static constexpr std::int32_t kForbidden = -3;
  struct Pair {
    std::int32_t left, right;
    std::int64_t count = 0;
    std::vector<Place> places;  // of the left symbol; some do not hold any more
    bool is_new = false;        // counted up since it was last entered into the heap
  };
  struct Entry {
    std::int64_t count;
    std::int32_t left, right;
    std::uint32_t pair;
    bool operator<(const Entry& other) const {
      if (count != other.count) return count < other.count;
      return left != other.left ? left > other.left : right > other.right;
    }
  };

  void count_pairs();
  std::uint32_t pair_index(std::int32_t left, std::int32_t right);
  void add(std::int32_t left, std::int32_t right, Place place, std::int64_t count);
  void enter_new_pairs();
  std::int32_t symbol_of(const std::string& bytes);
  void merge_at(Place place, std::int32_t left, std::int32_t right, std::int32_t result);
  Place size_of(std::int32_t symbol) const { return static_cast<Place>(bytes(symbol).size()); }

  std::vector<std::int32_t> symbols_;   // by place; kGap in front of the first word and behind each
  std::vector<Place> begin_of_last_;    // where the symbol begins whose last byte is here
  std::vector<std::uint32_t> word_at_;  // by place
  std::vector<std::int64_t> word_count_;
  std::vector<std::string> bytes_;  // of each symbol
  std::unordered_map<std::string, std::int32_t> known_;
  std::unordered_map<std::uint64_t, std::uint32_t> index_;  // of a pair
  std::vector<Pair> pairs_;
  std::vector<std::uint32_t> new_pairs_;
  std::priority_queue<Entry> heap_;
};

}  // namespace coluber
