// What the kernels of causal_conv1d share that keep a window of inputs in registers: which tokens and channels a warp
// has, the taps, tokens on their way, and the pre-activation. Included by causal_conv1d.cu alone.
#pragma once

#include <algorithm>

#include "kernels/causal_conv1d.h"
#include "kernels/cuda/causal_conv1d_plain.cuh"
#include "kernels/cuda/common/async_copy.cuh"
#include "kernels/cuda/common/pieces.cuh"

namespace coluber::cuda {
namespace {

constexpr int kBlockSlices = 8;  // warps of a block
static_assert(kThreads == kBlockSlices * 32);
constexpr int kBatch = 4;  // tokens that are computed together

// Blocks: neighbours have neighbouring channels, then tiles of tokens, then rows. 32-bit numbers, since dividing 64-bit
// ones would take as long as a few tokens.
struct Cut {
  unsigned slice_tokens, tiles, channel_blocks;  // tiles of a row
};

// Which V channels and which tokens, in processing order of the whole row, a warp has. 32-bit numbers: registers.
struct Slice {
  int row, begin, end, c;
  int first_channel;  // of the block
  int tile;           // number of the block's tile of tokens among all rows'
};

template <int V>
__device__ __forceinline__ Slice slice_of(const Cut& cut, int l) {
  const unsigned tile = blockIdx.x / cut.channel_blocks, channel_block = blockIdx.x - tile * cut.channel_blocks;
  const unsigned row = tile / cut.tiles;
  const unsigned first_slice = (tile - row * cut.tiles) * kBlockSlices;
  const auto begin = static_cast<int>((first_slice + threadIdx.x / 32) * cut.slice_tokens);
  const auto first_channel = static_cast<int>(channel_block * (32 * V)), lane = static_cast<int>(threadIdx.x % 32);
  const int end = min(begin + static_cast<int>(cut.slice_tokens), l);
  return {static_cast<int>(row), begin, end, first_channel + lane * V, first_channel, static_cast<int>(tile)};
}

// Taps and bias of the block's channels, (taps + 1, 32 V) in shared memory; a thread then has its V channels.
template <int W, int V>
struct Taps {
  static constexpr int kTaps = W + 1;
  float of[kTaps][V], bias[V];

  template <class Params>
  __device__ Taps(const Params& p, std::int64_t first, float (*staged)[32 * V]) {
    for (int i = threadIdx.x; i < 32 * V; i += kThreads) {
      const bool has = first + i < p.d;
      float w[kTaps] = {};
      if (has) load_taps(p.weight.data + (first + i) * kTaps, w);
#pragma unroll
      for (int j = 0; j < kTaps; ++j) staged[j][i] = w[j];
      staged[kTaps][i] = has && p.bias != nullptr ? p.bias[first + i] : 0.0f;
    }
    __syncthreads();
    const int at = threadIdx.x % 32 * V;
#pragma unroll
    for (int j = 0; j < kTaps; ++j) load_floats(staged[j] + at, of[j]);
    load_floats(staged[kTaps] + at, bias);
  }

 private:
  // By the widest accesses that rows are aligned for.
  static __device__ void load_taps(const float* from, float (&w)[kTaps]) {
    constexpr int kStep = kTaps % 4 == 0 ? 4 : kTaps % 2 == 0 ? 2 : 1;
#pragma unroll
    for (int j = 0; j < kTaps; j += kStep) {
      float some[kStep];
      load_floats(from + j, some);
#pragma unroll
      for (int i = 0; i < kStep; ++i) w[j + i] = some[i];
    }
  }
};

// The inputs before step s, oldest first; what a reset cuts off is zero. The number that is not cut off is returned.
template <int W, int V, class Params>
__device__ int load_window(const Params& p, const Sequence& q, std::int64_t s, std::int64_t c, float (&e)[W][V]) {
  int live = W;
#pragma unroll
  for (int i = 0; i < W; ++i) {
    const std::int64_t at = s - W + i;
    if (at >= 0) {
      load_floats(p.x.ptr(q.row, q.token(at)) + c, e[i]);
    } else {
#pragma unroll
      for (int k = 0; k < V; ++k) e[i][k] = p.state_in ? p.state_in(q.slot, c + k, at + W) : 0.0f;
    }
    if (!is_reset(p, q, at)) continue;
    live = W - i;
#pragma unroll
    for (int before = 0; before < i; ++before)
#pragma unroll
      for (int k = 0; k < V; ++k) e[before][k] = 0;
  }
  return live;
}

// A thread's channels of the tokens that it walks over, in processing order.
template <class T>
struct Walk {
  T* at;
  int stride;  // elements from token to token

  __device__ Walk(const View<T, 3>& v, std::int64_t row, std::int64_t token, std::int64_t c, bool reverse)
      : at(v.ptr(row, token) + c), stride(static_cast<int>(reverse ? -v.strides[1] : v.strides[1])) {}
  __device__ T* token(int i) const { return at + static_cast<std::int64_t>(i) * stride; }
};

template <class T, int V>
struct Batch {
  Raw<T, V> of[kBatch];
};

// Not before the copies that were waited for.
template <class T, int V>
__device__ __forceinline__ void load_shared(unsigned from, Raw<T, V>& to) {
  auto* w = reinterpret_cast<std::uint32_t*>(&to);
  if constexpr (sizeof(to) == 4)
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(w[0]) : "r"(from) : "memory");
  else if constexpr (sizeof(to) == 8)
    asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(w[0]), "=r"(w[1]) : "r"(from) : "memory");
  else
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                 : "r"(from)
                 : "memory");
}

// Batches of a walk on their way, kStages - 1 beyond the one that is computed, in places that one thread alone copies
// to and reads: no barrier. kPlaceBytes: of a thread, unless two stages need more.
template <class T, int V, int kPlaceBytes>
struct Ring {
  static constexpr int kStages = std::max(2, kPlaceBytes / (kBatch * V * static_cast<int>(sizeof(T))));
  static constexpr int kPlaces = kStages * kBatch;  // of a thread

  unsigned own;  // shared address; kThreads numbers from place to place

  __device__ explicit Ring(Raw<T, V> (*places)[kThreads]) : own(shared_address(places[0] + threadIdx.x)) {}

  static constexpr unsigned kApart = kThreads * V * static_cast<unsigned>(sizeof(T));
  __device__ __forceinline__ unsigned stage(int batch) const {
    return own + static_cast<unsigned>(batch % kStages) * (kBatch * kApart);
  }
  // kWhole: all tokens of the batch are there, else those before `end`.
  template <bool kWhole>
  __device__ __forceinline__ void ask(const Walk<const T>& walk, int batch, int end) const {
    const unsigned to = stage(batch);
    const T* from = walk.token(batch * kBatch);
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      if (kWhole || batch * kBatch + k < end) copy_async<V * sizeof(T)>(to + k * kApart, from, true);
      from += walk.stride;
    }
  }
  __device__ __forceinline__ Batch<T, V> take(int batch) const {
    Batch<T, V> out;
    const unsigned from = stage(batch);
#pragma unroll
    for (int k = 0; k < kBatch; ++k) load_shared(from + k * kApart, out.of[k]);
    return out;
  }
};

// Tokens of one sequence within a slice.
struct Run {
  int token;   // the first, in its row
  int s;       // its step
  int length;  // of the sequence
  int own;     // tokens that are this slice's
};

template <class Params>
__device__ __forceinline__ Run run_at(const Params& p, const Slice& slice, int at, int l, Sequence& q) {
  const int token = p.reverse ? l - 1 - at : at;
  q = sequence_of(p, slice.row, token);
  const auto s = static_cast<int>(q.step_of(token)), length = static_cast<int>(q.length);
  return {token, s, length, min(length - s, slice.end - at)};
}

// Bit k: a reset before token i + k.
__device__ __forceinline__ unsigned load_resets(const Walk<const std::uint8_t>& resets, int i, int end) {
  unsigned bits = 0;
  if (resets.at == nullptr) return bits;
#pragma unroll
  for (int k = 0; k < kBatch; ++k)
    if (i + k < end && *resets.token(i + k) != 0) bits |= 1u << k;
  return bits;
}

template <class Params>
__device__ Walk<const std::uint8_t> walk_of_resets(const Params& p, std::int64_t row, std::int64_t token) {
  View<const std::uint8_t, 3> v;  // one channel
  v.data = p.resets.data;
  v.strides[0] = p.resets.strides[0];
  v.strides[1] = p.resets.strides[1];
  if (!v) return {v, 0, 0, 0, false};
  return {v, row, token, 0, p.reverse};
}

// A batch with the inputs before it. Nothing of it outlives the batch but the last W, the next window.
template <int W, int V>
struct Inputs {
  float of[W + kBatch][V];

  template <class T>
  __device__ __forceinline__ Inputs(const float (&window)[W][V], const Batch<T, V>& batch) {
#pragma unroll
    for (int i = 0; i < W; ++i)
#pragma unroll
      for (int k = 0; k < V; ++k) of[i][k] = window[i][k];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) widen(batch.of[i], of[i + W]);
  }
  // Of what came before token i of the batch, nothing is left.
  __device__ __forceinline__ void clear_before(int i) {
#pragma unroll
    for (int before = 0; before < W + kBatch; ++before)
      if (before < i + W)
#pragma unroll
        for (int k = 0; k < V; ++k) of[before][k] = 0;
  }
  __device__ __forceinline__ void write_window(float (&window)[W][V]) const {
#pragma unroll
    for (int i = 0; i < W; ++i)
#pragma unroll
      for (int k = 0; k < V; ++k) window[i][k] = of[i + kBatch][k];
  }
};

template <int W, int V>
__device__ __forceinline__ void pre_activation(const Taps<W, V>& taps, const Inputs<W, V>& e, int i, float (&a)[V]) {
#pragma unroll
  for (int k = 0; k < V; ++k) {
    a[k] = taps.bias[k];
#pragma unroll
    for (int j = 0; j <= W; ++j) a[k] = fmaf(taps.of[j][k], e.of[i + j][k], a[k]);
  }
}

}  // namespace
}  // namespace coluber::cuda
