// causal_conv1d over (b,l,d): every number is read once and written once, and nothing else matters much. 2 to 8 taps
// (all published models have 4) go through registers, a pair of kernels for each number; any other number of taps
// through plain kernels.
//
// A warp has 32 V neighbouring channels and walks a slice of tokens with the last W = taps - 1 inputs in registers; the
// 8 warps of a block walk 8 neighbouring slices of the same channels, so that the taps are staged once, in shared
// memory, and gradients of the taps are added up there: one partial sum a block. A slice reads W tokens of the one
// before (backward also W of the next) again, from the L2 cache. Tokens to come are on their way to shared memory,
// where each thread has places of its own, while it computes: more bytes than registers could hold. Work per element
// with 4 taps: 11 instructions and 2 exponentials forward, 30 and 2 backward, a third and a half of the time that its
// bytes take.
#include <cstdlib>
#include <type_traits>

#include "kernels/causal_conv1d.h"
#include "kernels/cuda/causal_conv1d_plain.cuh"
#include "kernels/cuda/causal_conv1d_slices.cuh"
#include "kernels/cuda/common/launch.h"
#include "kernels/cuda/common/partial_sums.cuh"

namespace coluber::cuda {
namespace {

// Two for each of 132 multiprocessors: with fewer blocks than that, slices get shorter.
constexpr std::int64_t kFewBlocks = 264;

// Channels of a thread. More save address arithmetic, but cost registers, and with them warps: with these, two blocks
// fit a multiprocessor.
constexpr int kBackwardChannels = 2;
constexpr int kForwardRing = 128, kBackwardRing = 32;  // bytes of a thread for tokens on their way, of one tensor
constexpr int forward_channels(int window) {
  return window <= 3 ? 4 : 2;
}

// Tokens i, i + 1, ... of a walk. kWhole: kBatch of them without a reset, and no branch between them, so that their
// exponentials overlap; else those before `end`.
template <bool kWhole, int W, int V, class T>
__device__ __forceinline__ void forward_batch(const Taps<W, V>& taps, bool with_silu, const Batch<T, V>& x,
                                              unsigned resets, int i, int end, float (&window)[W][V],
                                              const Walk<T>& y) {
  Inputs<W, V> e(window, x);
  float a[kBatch][V];
#pragma unroll
  for (int k = 0; k < kBatch; ++k) {
    if (!kWhole && i + k >= end) continue;
    if (!kWhole && (resets >> k & 1) != 0) e.clear_before(k);
    pre_activation(taps, e, k, a[k]);
  }
  if (with_silu) {
#pragma unroll
    for (int k = 0; k < kBatch; ++k)
#pragma unroll
      for (int n = 0; n < V; ++n) a[k][n] = silu(a[k][n]);
  }
#pragma unroll
  for (int k = 0; k < kBatch; ++k)
    if (kWhole || i + k < end) store_floats(y.token(i + k), a[k]);
  e.write_window(window);
}

template <int W, int V, class T>
__global__ void __launch_bounds__(kThreads, 2) causal_conv1d_fwd_slices(const CausalConv1dParams<T, float> p, Cut cut) {
  using Tokens = Ring<T, V, kForwardRing>;
  __shared__ __align__(16) float staged[W + 2][32 * V];
  __shared__ Raw<T, V> places[Tokens::kPlaces][kThreads];
  const auto l = static_cast<int>(p.x.shape[1]);
  const Slice slice = slice_of<V>(cut, l);
  const Tokens ring(places);
  Sequence q;
  Run run;
  const bool has = slice.c < p.d && slice.begin < slice.end;
  auto begin = [&](int at) {
    run = run_at(p, slice, at, l, q);
    const Walk<const T> x(p.x, slice.row, run.token, slice.c, p.reverse);
#pragma unroll
    for (int batch = 0; batch < Tokens::kStages - 1; ++batch) {
      ring.template ask<false>(x, batch, run.own);
      commit_copies();
    }
  };
  if (has) begin(slice.begin);
  const Taps<W, V> taps(p, slice.first_channel, staged);
  if (!has) return;
  for (int at = slice.begin;;) {  // one sequence after the other
    const Walk<const T> x(p.x, slice.row, run.token, slice.c, p.reverse);
    const Walk<T> y(p.y, slice.row, run.token, slice.c, p.reverse);
    const auto reset_walk = walk_of_resets(p, slice.row, run.token);
    float window[W][V];
    load_window(p, q, run.s, slice.c, window);
    const int whole = run.own / kBatch, plain = p.resets ? 0 : whole;  // batches
    auto next = [&](int batch) {
      const int later = batch + Tokens::kStages - 1;
      later < whole ? ring.template ask<true>(x, later, run.own) : ring.template ask<false>(x, later, run.own);
      commit_copies();
      wait_copies<Tokens::kStages - 1>();
      return ring.take(batch);
    };
    int batch = 0;
    for (; batch < plain; ++batch)
      forward_batch<true>(taps, p.silu, next(batch), 0, batch * kBatch, run.own, window, y);
    for (; batch * kBatch < run.own; ++batch) {
      const int i = batch * kBatch;
      forward_batch<false>(taps, p.silu, next(batch), load_resets(reset_walk, i, run.own), i, run.own, window, y);
    }
    at += run.own;
    if (at >= slice.end) return;
    begin(at);
  }
}

// What backward carries from token to token.
template <int W, int V>
struct BackwardState {
  float window[W][V];   // the last inputs
  float pending[W][V];  // gradients of the window's inputs, from the outputs so far
  float grad_weight[W + 1][V], grad_bias[V];
  int live;  // inputs of the window that no reset has cut off
};

// Gradient g of the pre-activation of token k of a batch: on to the taps, and to the inputs that it saw. `done` is the
// gradient of the oldest of them, which no later token sees.
template <bool kAllLive, int W, int V>
__device__ __forceinline__ void backward_token(const Taps<W, V>& taps, const Inputs<W, V>& e, int k, bool own,
                                               const float (&g)[V], BackwardState<W, V>& state, float (&done)[V]) {
  if (own) {
#pragma unroll
    for (int n = 0; n < V; ++n) {
      state.grad_bias[n] += g[n];
#pragma unroll
      for (int j = 0; j <= W; ++j) state.grad_weight[j][n] = fmaf(g[n], e.of[k + j][n], state.grad_weight[j][n]);
    }
  }
#pragma unroll
  for (int n = 0; n < V; ++n) {
    auto with_tap = [&](int j, bool live) {
      return live ? fmaf(g[n], taps.of[j][n], state.pending[j][n]) : state.pending[j][n];
    };
    done[n] = with_tap(0, kAllLive || state.live >= W);
#pragma unroll
    for (int j = 1; j < W; ++j) state.pending[j - 1][n] = with_tap(j, kAllLive || state.live >= W - j);
    state.pending[W - 1][n] = g[n] * taps.of[W][n];
  }
  if (!kAllLive) state.live = min(state.live + 1, W);
}

// Tokens i, i + 1, ... of a walk: kBatch of the slice's own, no reset among them or the W before. No branch between
// them, so that their exponentials overlap.
template <int W, int V, class T>
__device__ __forceinline__ void backward_whole_batch(const Taps<W, V>& taps, bool with_silu, const Batch<T, V>& x,
                                                     const Batch<T, V>& grad_y, int i, BackwardState<W, V>& state,
                                                     const Walk<T>& grad_x) {
  const Inputs<W, V> e(state.window, x);
  float g[kBatch][V];
#pragma unroll
  for (int k = 0; k < kBatch; ++k) widen(grad_y.of[k], g[k]);
  if (with_silu) {
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      float a[V];
      pre_activation(taps, e, k, a);
#pragma unroll
      for (int n = 0; n < V; ++n) g[k][n] *= silu_slope(a[n]);
    }
  }
#pragma unroll
  for (int k = 0; k < kBatch; ++k) {
    float done[V];
    backward_token<true>(taps, e, k, true, g[k], state, done);
    if (i + k >= W) store_floats(grad_x.token(i + k - W), done);
  }
  e.write_window(state.window);
}

// The same for the tokens before `end`, of which the first `own` are this slice's: gradients of the taps count for
// those alone, gradients of inputs are written for those alone.
template <int W, int V, class T>
__device__ __forceinline__ void backward_batch(const Taps<W, V>& taps, bool with_silu, const Batch<T, V>& x,
                                               const Batch<T, V>& grad_y, unsigned resets, int i, int own, int end,
                                               BackwardState<W, V>& state, const Walk<T>& grad_x) {
  Inputs<W, V> e(state.window, x);
#pragma unroll
  for (int k = 0; k < kBatch; ++k) {
    if (i + k >= end) continue;
    if ((resets >> k & 1) != 0) {
      state.live = 0;
      e.clear_before(k);
    }
    float g[V], done[V];
    widen(grad_y.of[k], g);
    if (with_silu) {
      float a[V];
      pre_activation(taps, e, k, a);
#pragma unroll
      for (int n = 0; n < V; ++n) g[n] *= silu_slope(a[n]);
    }
    backward_token<false>(taps, e, k, i + k < own, g, state, done);
    const int from = i + k - W;
    if (from >= 0 && from < own) store_floats(grad_x.token(from), done);
  }
  e.write_window(state.window);
}

// The sequence has ended: what is pending, of the last W tokens before `end`, gets the gradient of state_out.
template <int W, int V, class T>
__device__ __forceinline__ void finish_sequence(const View<const float, 3>& grad_state_out, std::int64_t slot,
                                                std::int64_t c, int own, int end, BackwardState<W, V>& state,
                                                const Walk<T>& grad_x) {
#pragma unroll
  for (int i = 0; i < W; ++i) {
    const int from = end - W + i;
    if (from < 0 || from >= own) continue;
    if (grad_state_out && state.live >= W - i) {
#pragma unroll
      for (int k = 0; k < V; ++k) state.pending[i][k] += grad_state_out(slot, c + k, i);
    }
    store_floats(grad_x.token(from), state.pending[i]);
  }
}

// partial: (tiles, taps + 1, d).
template <int W, int V, class T>
__global__ void __launch_bounds__(kThreads, 2)
    causal_conv1d_bwd_slices(const CausalConv1dParams<T, float> p, const CausalConv1dGradParams<T, float> g, Cut cut,
                             float* partial) {
  using Tokens = Ring<T, V, kBackwardRing>;
  struct Rings {
    Raw<T, V> x[Tokens::kPlaces][kThreads], grad_y[Tokens::kPlaces][kThreads];
  };
  using Sums = float[kBlockSlices][W + 2][32 * V];
  __shared__ __align__(16) float staged[W + 2][32 * V];
  __shared__ __align__(16) unsigned char shared[std::max(sizeof(Rings), sizeof(Sums))];  // first these, then those
  auto& rings = *reinterpret_cast<Rings*>(shared);
  auto& sums = *reinterpret_cast<Sums*>(shared);
  const auto l = static_cast<int>(p.x.shape[1]);
  const Slice slice = slice_of<V>(cut, l);
  const Tokens ring(rings.x), grad_ring(rings.grad_y);
  Sequence q;
  Run run;
  int end = 0;  // the next slice's first outputs see this slice's last inputs
  const bool has = slice.c < p.d && slice.begin < slice.end;
  auto begin = [&](int at) {
    run = run_at(p, slice, at, l, q);
    end = min(run.length - run.s, run.own + W);
    const Walk<const T> x(p.x, slice.row, run.token, slice.c, p.reverse);
    const Walk<const T> grad_y(g.grad_y, slice.row, run.token, slice.c, p.reverse);
#pragma unroll
    for (int batch = 0; batch < Tokens::kStages - 1; ++batch) {
      ring.template ask<false>(x, batch, end);
      grad_ring.template ask<false>(grad_y, batch, end);
      commit_copies();
    }
  };
  if (has) begin(slice.begin);
  const Taps<W, V> taps(p, slice.first_channel, staged);
  BackwardState<W, V> state{};
  for (int at = slice.begin; has;) {
    const Walk<const T> x(p.x, slice.row, run.token, slice.c, p.reverse);
    const Walk<const T> grad_y(g.grad_y, slice.row, run.token, slice.c, p.reverse);
    const Walk<T> grad_x(g.grad_x, slice.row, run.token, slice.c, p.reverse);
    const auto reset_walk = walk_of_resets(p, slice.row, run.token);
    state.live = load_window(p, q, run.s, slice.c, state.window);
#pragma unroll
    for (int i = 0; i < W; ++i)
#pragma unroll
      for (int k = 0; k < V; ++k) state.pending[i][k] = 0;
    const int whole = end / kBatch, plain = p.resets ? 0 : run.own / kBatch;  // batches
    auto next = [&](int batch) {
      const int later = batch + Tokens::kStages - 1;
      if (later < whole) {
        ring.template ask<true>(x, later, end);
        grad_ring.template ask<true>(grad_y, later, end);
      } else {
        ring.template ask<false>(x, later, end);
        grad_ring.template ask<false>(grad_y, later, end);
      }
      commit_copies();
      wait_copies<Tokens::kStages - 1>();
    };
    int batch = 0;
    for (; batch < plain; ++batch) {
      next(batch);
      backward_whole_batch(taps, p.silu, ring.take(batch), grad_ring.take(batch), batch * kBatch, state, grad_x);
    }
    for (; batch * kBatch < end; ++batch) {
      next(batch);
      const int i = batch * kBatch;
      backward_batch(taps, p.silu, ring.take(batch), grad_ring.take(batch), load_resets(reset_walk, i, end), i, run.own,
                     end, state, grad_x);
    }
    if (run.s + end == run.length) finish_sequence(g.grad_state_out, q.slot, slice.c, run.own, end, state, grad_x);
    at += run.own;
    if (at >= slice.end) break;
    begin(at);
  }
  __syncthreads();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j <= W; ++j) store_shared(&sums[warp][j][lane * V], state.grad_weight[j]);
  store_shared(&sums[warp][W + 1][lane * V], state.grad_bias);
  __syncthreads();
  const std::int64_t first = slice.first_channel;
  for (int i = threadIdx.x; i < (W + 2) * 32 * V; i += kThreads) {
    const int j = i / (32 * V), c = i % (32 * V);
    float sum = sums[0][j][c];
    for (int w = 1; w < kBlockSlices; ++w) sum += sums[w][j][c];
    if (first + c < p.d) partial[(static_cast<std::int64_t>(slice.tile) * (W + 2) + j) * p.d + first + c] = sum;
  }
}

// Rows of V channels that are aligned.
template <class T>
bool fits(const View<T, 3>& v, int channels) {
  const std::int64_t bytes = channels * static_cast<std::int64_t>(sizeof(T)), size = sizeof(T);
  return is_aligned(v.data, std::min<std::int64_t>(bytes, 16)) && (v.shape[2] == 1 || v.strides[2] == 1) &&
         v.shape[2] % channels == 0 && std::max({v.shape[1], v.shape[2], std::abs(v.strides[1])}) < (1 << 30) &&
         (v.shape[0] == 1 || v.strides[0] * size % bytes == 0) && (v.shape[1] == 1 || v.strides[1] * size % bytes == 0);
}

template <class T>
bool taps_fit(const CausalConv1dParams<T, float>& p) {
  return p.k >= kFewestTaps && p.k <= kMostTaps && is_aligned(p.weight.data, 16) && p.weight.strides[1] == 1 &&
         (p.d == 1 || p.weight.strides[0] == p.k);
}

// run(std::integral_constant<int, W>{}), W = taps - 1.
template <class Run>
void with_window(std::int64_t taps, Run&& run) {
  switch (taps) {
    case 2: return run(std::integral_constant<int, 1>{});
    case 3: return run(std::integral_constant<int, 2>{});
    case 4: return run(std::integral_constant<int, 3>{});
    case 5: return run(std::integral_constant<int, 4>{});
    case 6: return run(std::integral_constant<int, 5>{});
    case 7: return run(std::integral_constant<int, 6>{});
    default: return run(std::integral_constant<int, 7>{});
  }
}

// Fewer blocks than kFewBlocks, and slices get shorter: by the shape alone, so that sums keep their order.
struct Grid {
  Cut cut;
  std::int64_t tiles, blocks;

  Grid(std::int64_t b, std::int64_t l, std::int64_t channel_blocks, std::int64_t slice_tokens) {
    for (;; slice_tokens /= 2) {
      const std::int64_t row_tiles = divide_up(l, slice_tokens * kBlockSlices);
      tiles = b * row_tiles;
      blocks = tiles * channel_blocks;
      cut = {static_cast<unsigned>(slice_tokens), static_cast<unsigned>(row_tiles),
             static_cast<unsigned>(channel_blocks)};
      if (blocks >= kFewBlocks || slice_tokens <= kBatch) return;
    }
  }
};

unsigned blocks_of(std::int64_t threads) {
  return static_cast<unsigned>(divide_up(threads, kThreads));
}

constexpr std::int64_t kForwardSlice = 128, kBackwardSlice = 128;

template <class T>
void backward_slices(const Stream& stream, const CausalConv1dParams<T, float>& p,
                     const CausalConv1dGradParams<T, float>& g, Scratch& scratch) {
  const Grid grid(p.x.shape[0], p.x.shape[1], divide_up(p.d, 32 * kBackwardChannels), kBackwardSlice);
  float* partial = scratch.allocate<float>(grid.tiles * (p.k + 1) * p.d);
  if (grid.blocks > 0) {
    with_window(p.k, [&](auto window) {
      causal_conv1d_bwd_slices<window.value, kBackwardChannels>
          <<<static_cast<unsigned>(grid.blocks), kThreads, 0, handle_of(stream)>>>(p, g, grid.cut, partial);
    });
    check_launch("causal_conv1d_bwd_slices");
  }
  add_partial_sums(stream, {partial, grid.tiles, p.d, p.k, g.grad_weight.data, g.grad_weight.strides[1],
                            g.grad_weight.strides[0], g.grad_bias});
}

template <class T>
void backward_plain(const Stream& stream, const CausalConv1dParams<T, float>& p,
                    const CausalConv1dGradParams<T, float>& g, Scratch& scratch) {
  const std::int64_t elems = p.x.shape[0] * p.x.shape[1] * p.d;
  const std::int64_t tiles = p.x.shape[0] * divide_up(p.x.shape[1], kPlainTile);
  auto* grad_pre = scratch.allocate<float>(elems);
  float* partial = scratch.allocate<float>(tiles * (p.k + 1) * p.d);
  if (elems > 0) {
    const cudaStream_t queue = handle_of(stream);
    causal_conv1d_bwd_plain_pre<<<blocks_of(elems), kThreads, 0, queue>>>(p, g, grad_pre);
    causal_conv1d_bwd_plain_x<<<blocks_of(elems), kThreads, 0, queue>>>(p, g, grad_pre);
    const dim3 grid(static_cast<unsigned>(tiles * divide_up(p.d, kThreads)), static_cast<unsigned>(p.k + 1));
    causal_conv1d_bwd_plain_taps<<<grid, kThreads, 0, queue>>>(p, grad_pre, partial);
    check_launch("causal_conv1d_bwd_plain");
  }
  add_partial_sums(stream, {partial, tiles, p.d, p.k, g.grad_weight.data, g.grad_weight.strides[1],
                            g.grad_weight.strides[0], g.grad_bias});
}

}  // namespace

template <class T>
void causal_conv1d_forward(const Stream& stream, const CausalConv1dParams<T, float>& p) {
  const DeviceScope scope(stream.device);
  const cudaStream_t queue = handle_of(stream);
  const std::int64_t b = p.x.shape[0], l = p.x.shape[1];
  if (l == 1 && p.sequences == nullptr) {
    if (b * p.d == 0) return;
    causal_conv1d_step_channels<<<blocks_of(b * p.d), kThreads, 0, queue>>>(p);
    return check_launch("causal_conv1d_step_channels");
  }
  if (b * l * p.d > 0) {
    const int channels = forward_channels(static_cast<int>(p.k) - 1);
    if (taps_fit(p) && fits(p.x, channels) && fits(p.y, channels)) {
      const Grid grid(b, l, divide_up(p.d, 32 * channels), kForwardSlice);
      with_window(p.k, [&](auto window) {
        causal_conv1d_fwd_slices<window.value, forward_channels(window.value)>
            <<<static_cast<unsigned>(grid.blocks), kThreads, 0, queue>>>(p, grid.cut);
      });
      check_launch("causal_conv1d_fwd_slices");
    } else {
      causal_conv1d_fwd_plain<<<blocks_of(b * l * p.d), kThreads, 0, queue>>>(p);
      check_launch("causal_conv1d_fwd_plain");
    }
  }
  if (!p.state_out || slots_of(p) * p.d * (p.k - 1) == 0) return;
  causal_conv1d_fwd_state<<<blocks_of(slots_of(p) * p.d), kThreads, 0, queue>>>(p);
  check_launch("causal_conv1d_fwd_state");
}

template <class T>
void causal_conv1d_backward(const Stream& stream, const CausalConv1dParams<T, float>& p,
                            const CausalConv1dGradParams<T, float>& g) {
  if (p.d == 0) return;
  const DeviceScope scope(stream.device);
  Scratch scratch(stream);
  if (taps_fit(p) && fits(p.x, kBackwardChannels) && fits(g.grad_y, kBackwardChannels) &&
      fits(g.grad_x, kBackwardChannels))
    backward_slices(stream, p, g, scratch);
  else
    backward_plain(stream, p, g, scratch);
  const std::int64_t states = slots_of(p) * p.d * (p.k - 1);
  if (!g.grad_state_in || states == 0) return;
  causal_conv1d_bwd_state<<<blocks_of(states), kThreads, 0, handle_of(stream)>>>(p, g);
  check_launch("causal_conv1d_bwd_state");
}

#define COLUBER_INSTANTIATE(T)                                                             \
  template void causal_conv1d_forward(const Stream&, const CausalConv1dParams<T, float>&); \
  template void causal_conv1d_backward(const Stream&, const CausalConv1dParams<T, float>&, \
                                       const CausalConv1dGradParams<T, float>&);
COLUBER_INSTANTIATE(float)
COLUBER_INSTANTIATE(bfloat16)
COLUBER_INSTANTIATE(float16)
#undef COLUBER_INSTANTIATE

}  // namespace coluber::cuda
