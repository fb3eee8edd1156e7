// Encodes a text of any length piece by piece, with the ids that encoding it at once would give.
//
// A text is cut at a border of characters, before a lone space or line break where there is one, and only
//   - between two bytes that no token of the vocabulary has side by side, so that no merge reaches across, and
//   - where 256 bytes on both sides, encoded together and apart, give the same ids: that leaves out what normalisers
//     and word patterns see across a border.
// Tokenizers that put a space in front of a text get a piece without its own first space, or lose the token that stands
// for the added one. Where nothing fits, a piece grows.
#pragma once

#include <bitset>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "coluber/tokenizer.h"

namespace coluber {

class LongTextEncoder {
 public:
  // 0: a mebibyte; 16 KiB for SentencePiece, whose time a byte grows with the text (1.6 s for 4 MB so, 4.8 s
  // otherwise).
  explicit LongTextEncoder(const Tokenizer& tokenizer, std::size_t piece_bytes = 0);

  // `emit(ids, done)`: the next ids, and how many bytes of the text are behind them. Special tokens spelled in the text
  // stay text.
  using Emit = std::function<void(std::span<const std::int32_t> ids, std::size_t done)>;
  void encode(std::string_view text, const Emit& emit) const;

 private:
  using Ids = std::vector<std::int32_t>;
  enum class Joint : unsigned char { kPlain, kDropSpace, kDropToken };  // how a piece goes on from the one before
  struct Cut {
    std::size_t at;
    Joint joint = Joint::kPlain;
  };

  Cut find_cut(std::string_view text, std::size_t from) const;
  bool find_cut_in(std::string_view text, std::size_t begin, std::size_t end, bool at_spaces, Cut& cut) const;
  bool may_cut(std::string_view text, std::size_t at, bool at_space) const;
  bool find_joint(std::string_view text, Cut& cut) const;
  Ids encode_piece(std::string_view text, Joint joint) const;

  std::shared_ptr<const Tokenizer> tokenizer_;
  std::size_t piece_bytes_;
  std::bitset<65536> side_by_side_;  // [first byte << 8 | second]: in some token
};

}  // namespace coluber
