// Words and their ids, for the time of one text: most words of a text have been there before.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/hash.h"

namespace coluber {

class WordCache {
 public:
  static constexpr std::size_t kMaxWordBytes = 64;                // longer ones hardly come twice
  static constexpr std::size_t kMaxWords = std::size_t{1} << 18;  // then it takes no more: about 20 MB

  // The ids of `word`; `make(ids)` appends them when they are not known.
  template <class Make>
  void append(std::string_view word, std::vector<std::int32_t>& ids, const Make& make) {
    if (word.size() > kMaxWordBytes) return make(ids);
    const std::uint64_t hash = fnv1a(word);
    Entry& entry = slot(word, hash);
    if (entry.word_bytes > 0) {
      const auto first = ids_.begin() + entry.first_id;
      ids.insert(ids.end(), first, first + entry.num_ids);
      return;
    }
    const std::size_t before = ids.size();
    make(ids);
    if (size_ < kMaxWords) remember(entry, word, hash, std::span(ids).subspan(before));
  }

 private:
  struct Entry {
    std::uint64_t hash = 0;
    std::uint32_t word_begin = 0, first_id = 0;  // below kMaxWords * kMaxWordBytes = 2^24
    std::uint32_t num_ids = 0, word_bytes = 0;   // 0: free
  };

  Entry& slot(std::string_view word, std::uint64_t hash) {
    for (std::size_t at = place(hash);; at = (at + 1) & (entries_.size() - 1)) {
      Entry& entry = entries_[at];
      if (entry.word_bytes == 0) return entry;
      if (entry.hash == hash && std::string_view(words_).substr(entry.word_begin, entry.word_bytes) == word) {
        return entry;
      }
    }
  }
  std::size_t place(std::uint64_t hash) const { return (hash ^ hash >> 32) & (entries_.size() - 1); }

  void remember(Entry& entry, std::string_view word, std::uint64_t hash, std::span<const std::int32_t> ids) {
    entry = {hash, static_cast<std::uint32_t>(words_.size()), static_cast<std::uint32_t>(ids_.size()),
             static_cast<std::uint32_t>(ids.size()), static_cast<std::uint32_t>(word.size())};
    words_ += word;
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    if (2 * ++size_ > entries_.size()) grow();
  }

  void grow() {
    std::vector<Entry> old(2 * entries_.size());
    old.swap(entries_);
    for (const Entry& entry : old) {
      if (entry.word_bytes == 0) continue;
      std::size_t at = place(entry.hash);
      while (entries_[at].word_bytes > 0) at = (at + 1) & (entries_.size() - 1);
      entries_[at] = entry;
    }
  }

  std::vector<Entry> entries_ = std::vector<Entry>(64);  // open addressing, at most half full
  std::size_t size_ = 0;
  std::string words_;
  std::vector<std::int32_t> ids_;
};

}  // namespace coluber
