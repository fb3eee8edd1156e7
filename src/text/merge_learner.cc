#include "text/merge_learner.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "core/check.h"

namespace coluber {

MergeLearner::MergeLearner(const WordCounts& words, std::int32_t first_byte_id) {
  const std::size_t places = words.total_bytes() + words.size() + 1;
  if (places > std::numeric_limits<Place>::max()) {
    refuse_value(ErrorCode::kInvalidArgument, "train_bpe", "bytes of different words", "fewer than 2^32", join(places),
                 "less text");
  }
  bytes_.resize(static_cast<std::size_t>(first_byte_id));
  for (int byte = 0; byte < 256; ++byte) {
    bytes_.emplace_back(1, static_cast<char>(byte));
    known_.emplace(bytes_.back(), first_byte_id + byte);
  }
  symbols_.reserve(places);
  symbols_.push_back(kGap);
  word_at_.push_back(0);
  for (std::size_t i = 0; i < words.size(); ++i) {
    for (const char c : words.word(i)) symbols_.push_back(first_byte_id + static_cast<unsigned char>(c));
    symbols_.push_back(kGap);
    word_at_.resize(symbols_.size(), static_cast<std::uint32_t>(i));
    word_count_.push_back(words.count(i));
  }
  begin_of_last_.resize(places);
  for (std::size_t i = 0; i < places; ++i) begin_of_last_[i] = static_cast<Place>(i);
  count_pairs();
}

void MergeLearner::count_pairs() {
  for (std::size_t i = 0; i + 1 < symbols_.size(); ++i) {
    if (symbols_[i] == kGap || symbols_[i + 1] == kGap) continue;
    add(symbols_[i], symbols_[i + 1], static_cast<Place>(i), word_count_[word_at_[i]]);
  }
  enter_new_pairs();
}

std::uint32_t MergeLearner::pair_index(std::int32_t left, std::int32_t right) {
  const std::uint64_t key = static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right);
  const auto [found, is_new] = index_.try_emplace(key, static_cast<std::uint32_t>(pairs_.size()));
  if (is_new) pairs_.push_back({left, right, 0, {}});
  return found->second;
}

void MergeLearner::add(std::int32_t left, std::int32_t right, Place place, std::int64_t count) {
  const std::uint32_t index = pair_index(left, right);
  Pair& pair = pairs_[index];
  pair.count += count;
  pair.places.push_back(place);
  if (!pair.is_new) new_pairs_.push_back(index);
  pair.is_new = true;
}

void MergeLearner::enter_new_pairs() {
  for (const std::uint32_t index : new_pairs_) {
    Pair& pair = pairs_[index];
    pair.is_new = false;
    heap_.push({pair.count, pair.left, pair.right, index});
  }
  new_pairs_.clear();
}

std::int32_t MergeLearner::symbol_of(const std::string& bytes) {
  const auto [found, is_new] = known_.try_emplace(bytes, num_symbols());
  if (is_new) bytes_.push_back(bytes);
  return found->second;
}

// A pair that was merged never comes again. Equal bytes between two borders of symbols were merged in the same way, so
// that each symbol has one pair that makes it; and where one half appears anew, the other has long been merged with it
// or with something else. What "aaa" leaves in its count ((a, a) twice, of which one merges) is therefore never read.
bool MergeLearner::merge_next(std::int64_t min_count, LearnedMerge& merge) {
  while (!heap_.empty() && heap_.top().count >= min_count) {
    const Entry top = heap_.top();
    heap_.pop();
    Pair& pair = pairs_[top.pair];
    if (pair.count != top.count) {  // it fell since; or it grew and has a better entry
      if (pair.count < top.count && pair.count > 0) heap_.push({pair.count, top.left, top.right, top.pair});
      continue;
    }
    const std::int32_t result = symbol_of(bytes(top.left) + bytes(top.right));
    std::vector<Place> places = std::exchange(pair.places, {});
    pair.count = 0;
    if (result == kForbidden) continue;
    if (!std::is_sorted(places.begin(), places.end())) std::sort(places.begin(), places.end());
    for (const Place place : places) merge_at(place, top.left, top.right, result);
    enter_new_pairs();
    merge = {top.left, top.right, result, top.count};
    return true;
  }
  return false;
}

// Leftmost first, as an encoder merges.
void MergeLearner::merge_at(Place place, std::int32_t left, std::int32_t right, std::int32_t result) {
  if (symbols_[place] != left) return;
  const Place middle = place + size_of(left);
  if (symbols_[middle] != right) return;
  const Place end = middle + size_of(right);
  const std::int64_t count = word_count_[word_at_[place]];
  const Place before = begin_of_last_[place - 1];
  const std::int32_t previous = symbols_[before], next = symbols_[end];
  symbols_[place] = result;
  symbols_[middle] = kInside;
  begin_of_last_[end - 1] = place;
  if (previous != kGap) {
    pairs_[pair_index(previous, left)].count -= count;
    add(previous, result, before, count);
  }
  if (next != kGap) {
    pairs_[pair_index(right, next)].count -= count;
    add(result, next, place, count);
  }
}

}  // namespace coluber
