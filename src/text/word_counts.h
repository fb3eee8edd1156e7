// How often each word comes in a text: what byte-pair encoding learns from.
//
// Words are copied into one string, so that a corpus of any size costs what its different words do.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace coluber {

class WordCounts {
 public:
  void add(std::string_view word);

  std::size_t size() const { return words_.size(); }  // different words, in the order of their first appearance
  std::string_view word(std::size_t index) const {
    return std::string_view(letters_).substr(words_[index].offset, words_[index].size);
  }
  std::int64_t count(std::size_t index) const { return words_[index].count; }
  std::size_t total_bytes() const { return letters_.size(); }  // of the different words

 private:
  struct Word {
    std::size_t hash, offset, size;
    std::int64_t count;
  };
  void grow();

  std::string letters_;
  std::vector<Word> words_;
  std::vector<std::uint32_t> slots_ = std::vector<std::uint32_t>(1024);  // 0: free; else 1 + index. At most half full
};

}  // namespace coluber
