// The helper warps of selective_scan's tiled forward (selective_scan_tiled.cuh): what comes before the recurrence of a
// tile, and what comes after. 350 instructions of a thread for 8 channels of one token, 4 special functions each.
// Memory answers in the time of half a tile or a whole one, so u, dt, z and rows of B and C are asked for three tiles
// ahead, into a ring of shared memory: with one tile ahead, helpers took as long as the scan that they serve.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/common/activation.cuh"
#include "kernels/cuda/common/async_copy.cuh"
#include "kernels/cuda/common/meeting.cuh"
#include "kernels/cuda/common/pieces.cuh"
#include "kernels/cuda/selective_scan_common.cuh"

namespace coluber::cuda {

inline constexpr int kTiledStates = 16, kTileTokens = kScanChunk;
inline constexpr int kRawTiles = 4;                    // of the ring
inline constexpr int kTogether = 3, kTogetherOne = 4;  // blocks of a multiprocessor; of pass one

// What a block has. Channels of a scan thread, with 4 states each; of a helper thread, of one token of a tile. Warp i
// shares a scheduler with warps i + 4 and i + 8: where one scheduler has a scan warp more than the others, helpers
// leave it alone, and one warp does nothing.
template <int Channels, int ScanWarps, int OfScan, int OfHelper>
struct TileShape {
  static constexpr int kChannels = Channels, kScanWarps = ScanWarps, kOfScan = OfScan, kOfHelper = OfHelper;
  static constexpr int kHelpers = kTileTokens * kChannels / kOfHelper / 32;  // warps
  static constexpr int kIdleWarp = kScanWarps % 4 == 0 ? -1 : 8;
  static constexpr int kThreads = (kScanWarps + kHelpers + (kIdleWarp < 0 ? 0 : 1)) * 32;
  static_assert(kScanWarps * 8 * kOfScan == kChannels && kHelpers >= 4);

  // Of a thread behind the scan warps.
  static __device__ __forceinline__ int helper_thread(int thread) {
    const int behind = thread - kScanWarps * 32;
    return kIdleWarp >= 0 && thread / 32 > kIdleWarp ? behind - 32 : behind;
  }
};
using WideTile = TileShape<64, 4, 2, 8>;
// Few channels: no cuts of the length, so that every multiprocessor has one block.
using NarrowTile = TileShape<40, 5, 1, 4>;

enum RawInput { kRawDt, kRawU, kRawZ, kRawInputs };  // z for outputs alone

template <class T, bool kStateOnly, class Tile>
struct TiledShared {
  T raw[kRawTiles][kStateOnly ? kRawZ : kRawInputs][kTileTokens][Tile::kChannels];
  T rows[kRawTiles][2][kTileTokens][kTiledStates];    // of B and C
  float4 steps[2][kTileTokens][Tile::kChannels / 2];  // dt, dt u of two channels, swizzled: steps_at
  float4 B[2][kTileTokens][kTiledStates / 4], C[2][kTileTokens][kTiledStates / 4];
  float y[2][kStateOnly ? 1 : kTileTokens][Tile::kChannels];
  float bias[Tile::kChannels], D[Tile::kChannels];
  std::uint8_t resets[2][kTileTokens];
  Meeting ready[2], done[2];  // helpers have prepared a tile; scan warps are through with it
  // States only, of even and odd tiles: scan warps whose decays all are 0 at the end, and whether the tile is one that
  // is not walked any more.
  std::uint8_t decayed[2][Tile::kScanWarps], stop[2];
};

// The tiles of one piece of a sequence.
struct TiledRange {
  std::int64_t first, end;
};

// A helper writes four neighbouring pairs, a scan thread reads one: pairs of 8 lines apart must not share banks.
__device__ __forceinline__ int steps_at(int pair) {
  return pair ^ (pair >> 3);
}

// Neighbouring numbers as words: as an array of 16-bit numbers, each would be moved and widened by itself.
template <class T, int N>
struct Words {
  static constexpr int kCount = N * static_cast<int>(sizeof(T)) / 4;
  std::uint32_t of[kCount];
};

template <int N, class T>
__device__ __forceinline__ Words<T, N> load_words(const T* p) {
  Words<T, N> out;
  constexpr int kCount = Words<T, N>::kCount;
  if constexpr (kCount == 2) {
    const uint2 w = *reinterpret_cast<const uint2*>(p);
    out.of[0] = w.x, out.of[1] = w.y;
  } else {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      const uint4 w = reinterpret_cast<const uint4*>(p)[i / 4];
      out.of[i] = w.x, out.of[i + 1] = w.y, out.of[i + 2] = w.z, out.of[i + 3] = w.w;
    }
  }
  return out;
}

template <class T, int N>
__device__ __forceinline__ void widen(const Words<T, N>& in, float (&out)[N]) {
#pragma unroll
  for (int i = 0; i < Words<T, N>::kCount; ++i) {
    if constexpr (sizeof(T) == 4) {
      out[i] = __uint_as_float(in.of[i]);
    } else if constexpr (std::is_same_v<T, bfloat16>) {
      out[2 * i] = __uint_as_float(in.of[i] << 16);
      out[2 * i + 1] = __uint_as_float(in.of[i] & 0xffff0000u);
    } else {
      const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&in.of[i]));
      out[2 * i] = pair.x;
      out[2 * i + 1] = pair.y;
    }
  }
}

// Two numbers are rounded by one instruction.
template <class T, int N>
__device__ __forceinline__ void store_packed(T* to, const float (&y)[N]) {
  if constexpr (sizeof(T) == 4) {
    store_floats(to, y);
  } else {
    std::uint32_t pairs[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      if constexpr (std::is_same_v<T, bfloat16>)
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pairs[i]) : "f"(y[2 * i + 1]), "f"(y[2 * i]));
      else
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pairs[i]) : "f"(y[2 * i + 1]), "f"(y[2 * i]));
    }
    if constexpr (N == 8)
      *reinterpret_cast<uint4*>(to) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    else
      *reinterpret_cast<uint2*>(to) = make_uint2(pairs[0], pairs[1]);
  }
}

// Where a helper thread's channels of one token of a tile are in a tensor, tile after tile.
template <class T>
struct HelperRow {
  T* at = nullptr;
  std::int64_t step = 0;

  HelperRow() = default;
  __device__ HelperRow(const View<T, 3>& view, const ScanSequence& q, std::int64_t token, std::int64_t c, int tiles) {
    if (!view) return;
    at = view.ptr(q.row, token, c);
    step = view.strides[1] * q.sign * tiles * kTileTokens;
  }
};

// Tiles count in the order in which they are walked: from the first of the piece, for states alone from the last.
template <class T, bool kStateOnly, class Tile>
class TiledHelper {
 public:
  using Shared = TiledShared<T, kStateOnly, Tile>;

  __device__ TiledHelper(const SelectiveScanParams<T, float>& p, Shared& shared, const ScanSequence& q,
                         const TiledRange& tiles, std::int64_t channel0, int thread)
      : p_(p),
        shared_(shared),
        token_(thread / kLanes),
        lane_(thread % kLanes),
        count_(static_cast<int>(tiles.end - tiles.first)),
        begin_(static_cast<int>(max(q.position - tiles.first * kTileTokens, std::int64_t{0}))),
        end_(static_cast<int>(q.position + q.length - tiles.first * kTileTokens)),
        valid_(channel0 + lane_ * kHelperChannels < p.d),
        row_token_(thread % 64 / 4),
        row_quad_(thread % 4),
        row_is_C_(thread >= 64),
        has_row_(thread < 128 && !(kStateOnly && row_is_C_)) {
    const std::int64_t position = (tiles.first + tile_of(0)) * kTileTokens - q.position;
    const std::int64_t t = q.token(position + token_);
    const std::int64_t c = channel0 + lane_ * kHelperChannels;
    dt_ = HelperRow<const T>(p.dt, q, t, c, kStep);
    u_ = HelperRow<const T>(p.u, q, t, c, kStep);
    z_ = HelperRow<const T>(p.z, q, t, c, kStep);
    y_ = HelperRow<T>(p.y, q, t, c, kStep);
    if (p.resets && lane_ == 0) resets_ = p.resets.ptr(q.row, t);
    resets_step_ = p.resets.strides[1] * q.sign * kStep * kTileTokens;
    if (thread < Tile::kChannels) {
      const bool has = channel0 + thread < p.d;
      shared.bias[thread] = has && p.dt_bias != nullptr ? p.dt_bias[channel0 + thread] : 0.0f;
      shared.D[thread] = has && p.D != nullptr ? p.D[channel0 + thread] : 0.0f;
    }
    // Rows of B and C: 64 threads each, 4 states of one token.
    const auto& view = row_is_C_ ? p.C : p.B;
    const std::int64_t group = channel0 / (p.d / view.shape[2]);
    rows_ = view.ptr(q.row, q.token(position + row_token_), group, row_quad_ * 4);
    rows_step_ = view.strides[1] * q.sign * kStep * kTileTokens;
  }

  // Asks for the next tile, if there is one; a group of copies in any case.
  __device__ __forceinline__ void ask() {
    if (asked_ < count_) {
      const int slot = asked_ % kRawTiles;
      const bool there = has(asked_);
      copy(shared_.raw[slot][kRawDt], dt_, there);
      copy(shared_.raw[slot][kRawU], u_, there);
      if constexpr (!kStateOnly) {
        if (z_.at != nullptr) copy(shared_.raw[slot][kRawZ], z_, there);
      }
      if (has_row_) {
        copy_async<4 * sizeof(T)>(&shared_.rows[slot][row_is_C_][row_token_][row_quad_ * 4], rows_,
                                  is_token(asked_, row_token_));
        rows_ += rows_step_;
      }
    }
    ++asked_;
    commit_copies();
  }

  // Step sizes of a tile. Tokens that are none change nothing: dt = dt u = 0.
  __device__ __forceinline__ void prepare(int tile) {
    const int buffer = tile & 1, slot = tile % kRawTiles;
    float dt[kHelperChannels], u[kHelperChannels], bias[kHelperChannels];
    load_floats(&shared_.bias[lane_ * kHelperChannels], bias);
    widen(load_words<kHelperChannels>(mine(shared_.raw[slot][kRawDt])), dt);
    widen(load_words<kHelperChannels>(mine(shared_.raw[slot][kRawU])), u);
#pragma unroll
    for (int i = 0; i < kHelperChannels; ++i) dt[i] += bias[i];
    if (p_.dt_softplus) {
#pragma unroll
      for (int i = 0; i < kHelperChannels; ++i) dt[i] = scan_step_size<T>(dt[i], true);
    }
    const bool there = has(tile);
#pragma unroll
    for (int i = 0; i < kHelperChannels; ++i) dt[i] = there ? dt[i] : 0.0f;
#pragma unroll
    for (int i = 0; i < kHelperChannels; i += 2)
      shared_.steps[buffer][token_][steps_at((lane_ * kHelperChannels + i) / 2)] =
          make_float4(dt[i], u[i] * dt[i], dt[i + 1], u[i + 1] * dt[i + 1]);
    if (has_row_) {
      float row[4];
      widen(load_words<4>(&shared_.rows[slot][row_is_C_][row_token_][row_quad_ * 4]), row);
      (row_is_C_ ? shared_.C : shared_.B)[buffer][row_token_][row_quad_] = make_float4(row[0], row[1], row[2], row[3]);
    }
    if (lane_ == 0) {
      shared_.resets[buffer][token_] = resets_ != nullptr && is_token(tile, token_) && *resets_ != 0;
      if (resets_ != nullptr) resets_ += resets_step_;
    }
  }

  // Outputs of a tile that has been scanned.
  __device__ __forceinline__ void finish(int tile) {
    const int slot = tile % kRawTiles;
    float y[kHelperChannels], u[kHelperChannels], D[kHelperChannels];
    load_floats(&shared_.y[tile & 1][token_][lane_ * kHelperChannels], y);
    load_floats(&shared_.D[lane_ * kHelperChannels], D);
    widen(load_words<kHelperChannels>(mine(shared_.raw[slot][kRawU])), u);
#pragma unroll
    for (int i = 0; i < kHelperChannels; ++i) y[i] = fmaf(D[i], u[i], y[i]);
    if (z_.at != nullptr) {
      float z[kHelperChannels];
      widen(load_words<kHelperChannels>(mine(shared_.raw[slot][kRawZ])), z);
#pragma unroll
      for (int i = 0; i < kHelperChannels; ++i) y[i] *= silu(z[i]);
    }
    if (has(tile)) store_packed(y_.at, y);
    y_.at += y_.step;
  }

 private:
  static constexpr int kHelperChannels = Tile::kOfHelper, kLanes = Tile::kChannels / kHelperChannels;
  static constexpr int kStep = kStateOnly ? -1 : 1;

  __device__ __forceinline__ int tile_of(int turn) const {
    return kStateOnly ? count_ - 1 - turn : turn;
  }
  __device__ __forceinline__ bool is_token(int turn, int token) const {
    const int position = tile_of(turn) * kTileTokens + token;
    return position >= begin_ && position < end_;
  }
  __device__ __forceinline__ bool has(int tile) const {
    return valid_ && is_token(tile, token_);
  }
  __device__ __forceinline__ T* mine(T (&tile)[kTileTokens][Tile::kChannels]) const {
    return &tile[token_][lane_ * kHelperChannels];
  }
  __device__ __forceinline__ void copy(T (&tile)[kTileTokens][Tile::kChannels], HelperRow<const T>& row, bool there) {
    constexpr int kAtOnce = std::min(kHelperChannels, kPerVector<T>);
#pragma unroll
    for (int i = 0; i < kHelperChannels; i += kAtOnce)
      copy_async<kAtOnce* static_cast<int>(sizeof(T))>(mine(tile) + i, row.at + i, there);
    row.at += row.step;
  }

  const SelectiveScanParams<T, float>& p_;
  Shared& shared_;
  int token_, lane_, count_;
  int begin_, end_;  // positions
  bool valid_;
  int row_token_, row_quad_;
  bool row_is_C_, has_row_;
  int asked_ = 0;
  HelperRow<const T> dt_, u_, z_;
  HelperRow<T> y_;
  const std::uint8_t* resets_ = nullptr;
  std::int64_t resets_step_;
  const T* rows_;
  std::int64_t rows_step_;
};

}  // namespace coluber::cuda
