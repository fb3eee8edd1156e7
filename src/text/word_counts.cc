#include "text/word_counts.h"

#include <functional>
#include <limits>

#include "core/check.h"

namespace coluber {

void WordCounts::add(std::string_view word) {
  const std::size_t hash = std::hash<std::string_view>()(word), mask = slots_.size() - 1;
  std::size_t slot = hash & mask;
  for (; slots_[slot] != 0; slot = (slot + 1) & mask) {
    Word& known = words_[slots_[slot] - 1];
    if (known.hash != hash || word != this->word(slots_[slot] - 1)) continue;
    ++known.count;
    return;
  }
  if (words_.size() >= std::numeric_limits<std::uint32_t>::max() - 1) {
    refuse_value(ErrorCode::kInvalidArgument, "train_bpe", "different words", "fewer than 2^32", "more", "less text");
  }
  words_.push_back({hash, letters_.size(), word.size(), 1});
  letters_ += word;
  slots_[slot] = static_cast<std::uint32_t>(words_.size());
  if (2 * words_.size() > slots_.size()) grow();
}

void WordCounts::grow() {
  slots_.assign(2 * slots_.size(), 0);
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t i = 0; i < words_.size(); ++i) {
    std::size_t slot = words_[i].hash & mask;
    while (slots_[slot] != 0) slot = (slot + 1) & mask;
    slots_[slot] = static_cast<std::uint32_t>(i + 1);
  }
}

}  // namespace coluber
