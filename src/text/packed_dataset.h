// Batches of tokens for training and evaluation, as a pure function of their number.
//
//   PackedDataset data(TokenStream(store));
//   PackedBatch batch = data.batch(step, 8, 512, seed);     // training: windows in random order, each once an epoch
//   PackedBatch part = data.chunk(i, 2048);                 // evaluation: the stream from front to end
//
// The stream of tokens is cut into windows of seq_len, at a phase that changes from epoch to epoch, and a permutation
// of their numbers (a Feistel network over Philox, keyed by seed and epoch) says which window is the i-th. The last
// window ends with the stream, wherever the phase would put it: an epoch leaves out at most seq_len - 1 tokens, at its
// front. Nothing is carried from batch to batch, so a resumed training needs the number of its step and nothing else.
//
// Documents: `resets` is 1 at the first token of each. A token's target is the next one; where that opens another
// document it counts only if it is the end-of-text id, which ends the one and, seen with an empty state, opens the
// other; everywhere else the target is -1. Windows never reach beyond their stream, so a split does not leak.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "coluber/tensor.h"
#include "text/token_store.h"

namespace coluber {

// Tokens [begin, end) of a store.
class TokenStream {
 public:
  explicit TokenStream(std::shared_ptr<const TokenStore> store);
  // Throws kInvalidArgument when the range does not fit.
  TokenStream(std::shared_ptr<const TokenStore> store, std::int64_t begin, std::int64_t end);

  std::int64_t size() const { return end_ - begin_; }
  const TokenStore& store() const { return *store_; }

  // (first part, last `heldout_share` of the tokens), cut at the next border of documents where there is one in the
  // last part. For tokens that come without their text; Corpus::split is the better place.
  std::pair<TokenStream, TokenStream> split(double heldout_share) const;

  // `count` + 1 tokens from `first` give ids and targets; the one behind the end of the stream counts as none.
  void read(std::int64_t first, std::span<std::int32_t> ids, std::span<std::int32_t> targets,
            std::span<std::uint8_t> resets) const;

  // Of the ids and where documents begin: of all of them up to 2^24 tokens, beyond of 256 blocks spread evenly from the
  // first token to the last, so that terabytes are told apart in a second.
  std::uint64_t fingerprint() const;

 private:
  std::int64_t border_from(std::int64_t token) const;

  std::shared_ptr<const TokenStore> store_;
  std::int64_t begin_, end_;
};

struct PackedBatch {
  Tensor ids;      // (b,l) i32
  Tensor targets;  // (b,l) i32, -1: not counted
  Tensor resets;   // (b,l) u8, 1: the state starts anew here
  std::int64_t num_targets = 0;
};

class PackedDataset {
 public:
  explicit PackedDataset(TokenStream stream) : stream_(std::move(stream)) {}

  const TokenStream& stream() const { return stream_; }
  std::int64_t num_tokens() const { return stream_.size(); }
  // Throws kInvalidArgument naming both numbers when there are fewer than seq_len + 1 tokens.
  std::int64_t windows_per_epoch(std::int64_t seq_len) const;
  PackedBatch batch(std::int64_t step, std::int64_t batch_size, std::int64_t seq_len, std::uint64_t seed) const;

  // Chunk `index` of the stream cut into pieces of seq_len, the last one shorter: (1,l). To be read in order with the
  // state of the one before.
  std::int64_t num_chunks(std::int64_t seq_len) const;
  PackedBatch chunk(std::int64_t index, std::int64_t seq_len) const;

 private:
  std::int64_t window_start(std::int64_t number, std::int64_t seq_len, std::uint64_t seed) const;
  template <class StartOfRow>
  PackedBatch read_rows(std::int64_t b, std::int64_t seq_len, StartOfRow&& start) const;

  TokenStream stream_;
};

}  // namespace coluber
