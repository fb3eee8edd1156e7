#include "text/bpe.h"

#include <algorithm>
#include <bit>

#include "core/check.h"
#include "core/utf8.h"

namespace coluber {
namespace {

constexpr std::uint64_t kFibonacci = 0x9E3779B97F4A7C15ull;  // 2^64 / golden ratio: spreads neighbouring keys

bool later(const Bpe::Candidate& a, const Bpe::Candidate& b) {
  return a.key > b.key;
}

}  // namespace

Bpe::Bpe(BpeSymbols symbols, const std::vector<BpeMerge>& merges) : symbols_(std::move(symbols)) {
  const std::size_t slots = std::bit_ceil(std::max<std::size_t>(16, 2 * merges.size()));
  shift_ = 64 - std::countr_zero(slots);
  table_.resize(slots);
  std::int32_t rank = 0;
  for (const BpeMerge& merge : merges) {
    const std::uint64_t pair = pair_of(merge.left, merge.right);
    std::size_t slot = (pair * kFibonacci) >> shift_;
    while (table_[slot].pair != kNoPair && table_[slot].pair != pair) slot = (slot + 1) & (slots - 1);
    table_[slot] = {pair, rank++, merge.result};  // of a pair that is there twice, the last counts
  }
}

const Bpe::Entry* Bpe::find(std::int32_t left, std::int32_t right) const {
  const std::uint64_t pair = pair_of(left, right);
  for (std::size_t slot = (pair * kFibonacci) >> shift_;; slot = (slot + 1) & (table_.size() - 1)) {
    if (table_[slot].pair == pair) return &table_[slot];
    if (table_[slot].pair == kNoPair) return nullptr;
  }
}

void Bpe::cut_bytes(std::string_view word, std::vector<Symbol>& out) const {
  bool open = false;  // the last symbol is unknown and takes more
  for (const char byte : word) {
    const std::int32_t id = symbols_.byte_ids[static_cast<unsigned char>(byte)];
    if (id >= 0) {
      out.push_back({id, 0, 0});
      open = false;
    } else if (symbols_.unknown_id >= 0 && !open) {
      out.push_back({symbols_.unknown_id, 0, 0});
      open = symbols_.fuse_unknown;
    }
  }
}

void Bpe::cut_characters(std::string_view word, std::vector<Symbol>& out) const {
  bool open = false;
  std::string character;
  for (std::size_t at = 0; at < word.size(); at += character.size()) {
    character.assign(word, at, static_cast<std::size_t>(decode_utf8(word, at).size));
    const auto found = symbols_.ids.find(character);
    const auto has_id = [&](char byte) { return symbols_.byte_ids[static_cast<unsigned char>(byte)] >= 0; };
    if (found != symbols_.ids.end()) {
      out.push_back({found->second, 0, 0});
      open = false;
    } else if (symbols_.byte_fallback && std::all_of(character.begin(), character.end(), has_id)) {
      for (const char byte : character) out.push_back({symbols_.byte_ids[static_cast<unsigned char>(byte)], 0, 0});
      open = false;
    } else if (symbols_.unknown_id >= 0 && !open) {
      out.push_back({symbols_.unknown_id, 0, 0});
      open = symbols_.fuse_unknown;
    }
  }
}

void Bpe::push_candidate(Scratch& scratch, std::int32_t place) const {
  const Symbol& symbol = scratch.symbols[static_cast<std::size_t>(place)];
  if (symbol.next < 0) return;
  const Entry* merge = find(symbol.id, scratch.symbols[static_cast<std::size_t>(symbol.next)].id);
  if (merge == nullptr) return;
  const auto key = std::uint64_t{static_cast<std::uint32_t>(merge->rank)} << 32 | static_cast<std::uint32_t>(place);
  scratch.heap.push_back({key, merge->result});
  std::push_heap(scratch.heap.begin(), scratch.heap.end(), later);
}

void Bpe::merge_all(Scratch& scratch) const {
  std::vector<Symbol>& symbols = scratch.symbols;
  std::vector<Candidate>& heap = scratch.heap;
  heap.clear();
  const auto n = static_cast<std::int32_t>(symbols.size());
  for (std::int32_t i = 0; i < n; ++i) {
    symbols[static_cast<std::size_t>(i)].previous = i - 1;
    symbols[static_cast<std::size_t>(i)].next = i + 1 < n ? i + 1 : -1;
  }
  for (std::int32_t i = 0; i + 1 < n; ++i) push_candidate(scratch, i);
  while (!heap.empty()) {
    const Candidate top = heap.front();
    std::pop_heap(heap.begin(), heap.end(), later);
    heap.pop_back();
    const auto place = static_cast<std::int32_t>(top.key & 0xFFFFFFFFu);
    Symbol& left = symbols[static_cast<std::size_t>(place)];
    if (left.id < 0 || left.next < 0) continue;
    Symbol& right = symbols[static_cast<std::size_t>(left.next)];
    // The pair may have changed since; one that makes the same token will do, as in the `tokenizers` library.
    const Entry* merge = find(left.id, right.id);
    if (merge == nullptr || merge->result != top.result) continue;
    left.id = top.result;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[static_cast<std::size_t>(left.next)].previous = place;
    if (left.previous >= 0) push_candidate(scratch, left.previous);
    push_candidate(scratch, place);
  }
}

void Bpe::encode_word(std::string_view word, Scratch& scratch, std::vector<std::int32_t>& out) const {
  constexpr std::size_t kMaxWord = std::size_t{1} << 31;  // places are 32 bits
  if (word.size() >= kMaxWord) {
    refuse_value(ErrorCode::kInvalidArgument, "tokenizer", "text", "words of less than 2 GiB",
                 join("one of ", word.size(), " bytes"), "encode it in parts");
  }
  if (symbols_.whole_words) {
    const auto found = symbols_.ids.find(std::string(word));
    if (found != symbols_.ids.end()) return out.push_back(found->second);
  }
  scratch.symbols.clear();
  if (symbols_.byte_level) {
    cut_bytes(word, scratch.symbols);
  } else {
    cut_characters(word, scratch.symbols);
  }
  merge_all(scratch);
  for (const Symbol& symbol : scratch.symbols) {
    if (symbol.id >= 0) out.push_back(symbol.id);
  }
}

}  // namespace coluber
