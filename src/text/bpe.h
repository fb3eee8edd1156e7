// Byte-pair encoding of one word: the pair of neighbours that was learned first is merged first, the leftmost of
// equals, until none is left (arXiv 1508.07909). O(n log n) for n symbols.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace coluber {

struct BpeMerge {
  std::int32_t left, right, result;  // ids
};

// What a word is cut into before merging, and what becomes of symbols without a token.
struct BpeSymbols {
  bool byte_level = false;                            // bytes; else characters of UTF-8
  std::array<std::int32_t, 256> byte_ids{};           // of the byte, or with byte_fallback of "<0xNN>"; -1: none
  bool byte_fallback = false;                         // a character without a token becomes its bytes
  std::int32_t unknown_id = -1;                       // for what is left; -1: dropped
  bool fuse_unknown = false;                          // one for a run of them
  bool whole_words = false;                           // a word that is a token stays one, whatever the merges say
  std::unordered_map<std::string, std::int32_t> ids;  // of texts: characters, and words for whole_words
};

class Bpe {
 public:
  Bpe(BpeSymbols symbols, const std::vector<BpeMerge>& merges);  // most urgent first

  // Memory that encode_word uses again.
  struct Symbol {
    std::int32_t id;  // -1: merged into the one before
    std::int32_t previous, next;
  };
  struct Candidate {
    std::uint64_t key;  // rank in the high half, place in the low one
    std::int32_t result;
  };
  struct Scratch {
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };
  void encode_word(std::string_view word, Scratch& scratch, std::vector<std::int32_t>& out) const;

  const BpeSymbols& symbols() const { return symbols_; }

 private:
  struct Entry {
    std::uint64_t pair = kNoPair;  // left id in the high half
    std::int32_t rank = 0, result = 0;
  };
  static constexpr std::uint64_t kNoPair = UINT64_MAX;

  static std::uint64_t pair_of(std::int32_t left, std::int32_t right) {
    return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
  }
  const Entry* find(std::int32_t left, std::int32_t right) const;
  void cut_characters(std::string_view word, std::vector<Symbol>& out) const;
  void cut_bytes(std::string_view word, std::vector<Symbol>& out) const;
  void merge_all(Scratch& scratch) const;
  void push_candidate(Scratch& scratch, std::int32_t place) const;

  BpeSymbols symbols_;
  std::vector<Entry> table_;  // open addressing, at most half full
  int shift_ = 0;             // 64 - log2 of the table's size
};

}  // namespace coluber
