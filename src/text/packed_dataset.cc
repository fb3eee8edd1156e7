#include "text/packed_dataset.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "core/check.h"
#include "core/hash.h"
#include "core/rng.h"

namespace coluber {
namespace {

constexpr const char* kOp = "data";
constexpr std::int64_t kWholeTokens = std::int64_t{1} << 24;  // 64 MiB: read in a tenth of a second
constexpr std::int64_t kBlocks = 256, kBlockTokens = std::int64_t{1} << 14;
constexpr std::uint64_t kStream = 0x7061636b00000000ull;  // "pack": no other random numbers of the seed are these

void check_at_least(std::string_view what, std::int64_t least, std::int64_t got) {
  if (got < least) refuse_value(ErrorCode::kInvalidArgument, kOp, what, join("at least ", least), join(got));
}

// A permutation of 0..n-1 that is computed where it is asked for: a Feistel network over the next even number of bits,
// followed until it lands below n (at most four rounds of it on average).
std::uint64_t permute(const Rng& rng, std::uint64_t index, std::uint64_t n) {
  constexpr int kRounds = 6;
  const int half = std::max(1, (static_cast<int>(std::bit_width(n - 1)) + 1) / 2);
  const std::uint64_t mask = (std::uint64_t{1} << half) - 1;
  do {
    std::uint64_t left = index >> half, right = index & mask;
    for (std::uint64_t round = 1; round <= kRounds; ++round) {
      const std::array<std::uint32_t, 4> noise = rng.block((round << 32) | right);
      const std::uint64_t next = left ^ (noise[0] & mask);
      left = right;
      right = next;
    }
    index = (left << half) | right;
  } while (index >= n);
  return index;
}

}  // namespace

TokenStream::TokenStream(std::shared_ptr<const TokenStore> store)
    : store_(std::move(store)), begin_(0), end_(store_->info().num_tokens) {}

TokenStream::TokenStream(std::shared_ptr<const TokenStore> store, std::int64_t begin, std::int64_t end)
    : store_(std::move(store)), begin_(begin), end_(end) {
  const std::int64_t size = store_->info().num_tokens;
  if (begin < 0 || begin > end || end > size) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, store_->name() + ": range", join("within 0 to ", size),
                 join(begin, " to ", end));
  }
}

// The first border of documents at or after `token`; end_ when there is none.
std::int64_t TokenStream::border_from(std::int64_t token) const {
  const TokenStoreInfo& info = store_->info();
  if (info.num_documents > 0) return std::min(end_, store_->document_start_from(token));
  std::vector<std::int32_t> ids(4096);
  for (; info.eos_id >= 0 && token < end_; token += static_cast<std::int64_t>(ids.size())) {
    ids.resize(static_cast<std::size_t>(std::min<std::int64_t>(4096, end_ - token)));
    store_->read(token, ids);
    const auto found = std::find(ids.begin(), ids.end(), info.eos_id);
    if (found != ids.end()) return token + (found - ids.begin());
  }
  return end_;
}

std::pair<TokenStream, TokenStream> TokenStream::split(double heldout_share) const {
  if (!(heldout_share > 0 && heldout_share < 1)) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "held-out share", "above 0 and below 1", join(heldout_share));
  }
  const std::int64_t heldout = std::llround(heldout_share * static_cast<double>(size()));
  std::int64_t cut = end_ - heldout;
  const std::int64_t border = border_from(cut);
  if (border < end_) cut = border;
  if (cut <= begin_ || cut >= end_) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, store_->name() + ": split", "two parts that are not empty",
                 join(cut - begin_, " and ", end_ - cut, " tokens"), "more data, or another held-out share");
  }
  return {TokenStream(store_, begin_, cut), TokenStream(store_, cut, end_)};
}

void TokenStream::read(std::int64_t first, std::span<std::int32_t> ids, std::span<std::int32_t> targets,
                       std::span<std::uint8_t> resets) const {
  const auto count = static_cast<std::int64_t>(ids.size());
  check_equal(kOp, "number of targets", count, static_cast<long long>(targets.size()));
  check_equal(kOp, "number of resets", count, static_cast<long long>(resets.size()));
  if (first < 0 || first > size() || count > size() - first) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, store_->name() + ": range", join("within ", size(), " tokens"),
                 join(count, " from ", first));
  }
  if (count == 0) return;
  store_->read(begin_ + first, ids);
  std::copy(ids.begin() + 1, ids.end(), targets.begin());
  targets.back() = -1;
  const bool has_next = first + count < size();
  if (has_next) store_->read(begin_ + first + count, targets.last(1));

  const TokenStoreInfo& info = store_->info();
  if (info.num_documents == 0) {
    for (std::size_t t = 0; t < ids.size(); ++t) resets[t] = info.eos_id >= 0 && ids[t] == info.eos_id ? 1 : 0;
    return;  // a document opens with the end-of-text id, so that every target counts
  }
  std::fill(resets.begin(), resets.end(), std::uint8_t{0});
  const std::int64_t end = begin_ + first + count + (has_next ? 1 : 0);
  std::int64_t start = store_->document_start_from(begin_ + first);
  for (; start < end; start = store_->document_start_from(start + 1)) {
    const auto t = static_cast<std::size_t>(start - begin_ - first);
    if (t < resets.size()) resets[t] = 1;
    if (t > 0 && targets[t - 1] != info.eos_id) targets[t - 1] = -1;
  }
}

std::uint64_t TokenStream::fingerprint() const {
  std::uint64_t hash = fnv1a(join(size(), " tokens"));
  std::vector<std::int32_t> ids, targets;
  std::vector<std::uint8_t> resets;
  const auto add = [&](std::int64_t first) {
    const auto count = static_cast<std::size_t>(std::min(kBlockTokens, size() - first));
    ids.resize(count);
    targets.resize(count);
    resets.resize(count);
    read(first, ids, targets, resets);
    hash = fnv1a({reinterpret_cast<const char*>(ids.data()), count * sizeof(std::int32_t)}, hash);
    hash = fnv1a({reinterpret_cast<const char*>(resets.data()), count}, hash);
  };
  if (size() <= kWholeTokens) {
    for (std::int64_t first = 0; first < size(); first += kBlockTokens) add(first);
    return hash;
  }
  const double apart = static_cast<double>(size() - kBlockTokens) / (kBlocks - 1);
  for (std::int64_t i = 0; i < kBlocks; ++i) {
    add(std::min(std::llround(apart * static_cast<double>(i)), static_cast<long long>(size() - kBlockTokens)));
  }
  return hash;
}

std::int64_t PackedDataset::windows_per_epoch(std::int64_t seq_len) const {
  check_at_least("seq_len", 1, seq_len);
  if (seq_len >= num_tokens()) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, stream_.store().name(),
                 join("more tokens than the sequence length of ", seq_len), join(num_tokens()),
                 "more data, or a shorter sequence");
  }
  return (num_tokens() - 1) / seq_len;
}

// Windows of an epoch begin at phase + i seq_len; the last one moves to the front until it has a target for every
// token.
std::int64_t PackedDataset::window_start(std::int64_t number, std::int64_t seq_len, std::uint64_t seed) const {
  const std::int64_t windows = windows_per_epoch(seq_len);
  const std::int64_t epoch = number / windows;
  const Rng rng(seed, kStream ^ static_cast<std::uint64_t>(epoch));
  const auto index = static_cast<std::int64_t>(
      permute(rng, static_cast<std::uint64_t>(number % windows), static_cast<std::uint64_t>(windows)));
  const auto phase = static_cast<std::int64_t>(rng.below(0, static_cast<std::uint64_t>(seq_len)));
  return std::min(phase + index * seq_len, num_tokens() - 1 - seq_len);
}

template <class StartOfRow>
PackedBatch PackedDataset::read_rows(std::int64_t b, std::int64_t seq_len, StartOfRow&& start) const {
  PackedBatch batch{Tensor::empty({b, seq_len}, DType::kI32), Tensor::empty({b, seq_len}, DType::kI32),
                    Tensor::empty({b, seq_len}, DType::kU8)};
  const auto l = static_cast<std::size_t>(seq_len);
  auto* ids = batch.ids.data<std::int32_t>();
  auto* targets = batch.targets.data<std::int32_t>();
  auto* resets = batch.resets.data<std::uint8_t>();
  for (std::int64_t row = 0; row < b; ++row) {
    const std::int64_t at = row * seq_len;
    stream_.read(start(row), {ids + at, l}, {targets + at, l}, {resets + at, l});
  }
  batch.num_targets = b * seq_len - std::count(targets, targets + b * seq_len, -1);
  return batch;
}

PackedBatch PackedDataset::batch(std::int64_t step, std::int64_t batch_size, std::int64_t seq_len,
                                 std::uint64_t seed) const {
  check_at_least("step", 0, step);
  check_at_least("batch size", 1, batch_size);
  windows_per_epoch(seq_len);
  std::int64_t first = 0, last = 0;
  if (__builtin_mul_overflow(step, batch_size, &first) || __builtin_add_overflow(first, batch_size, &last)) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "step", "fewer than 2^63 windows up to it", join(step));
  }
  return read_rows(batch_size, seq_len, [&](std::int64_t row) { return window_start(first + row, seq_len, seed); });
}

std::int64_t PackedDataset::num_chunks(std::int64_t seq_len) const {
  check_at_least("seq_len", 1, seq_len);
  return num_tokens() / seq_len + (num_tokens() % seq_len == 0 ? 0 : 1);
}

PackedBatch PackedDataset::chunk(std::int64_t index, std::int64_t seq_len) const {
  const std::int64_t chunks = num_chunks(seq_len);
  if (index < 0 || index >= chunks) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "chunk", join("0 to ", chunks - 1), join(index));
  }
  const std::int64_t start = index * seq_len;
  return read_rows(1, std::min(seq_len, num_tokens() - start), [&](std::int64_t) { return start; });
}

}  // namespace coluber
