// What the tiled backward of selective_scan does around its recurrence: copies of tiles into shared memory, step sizes
// and gradients before the gate, gradients of u, dt and z on the way out.
#pragma once

#include "kernels/cuda/common/activation.cuh"
#include "kernels/cuda/common/async_copy.cuh"
#include "kernels/cuda/common/pieces.cuh"
#include "kernels/cuda/selective_scan_backward_sums.cuh"

namespace coluber::cuda {

inline constexpr int kGradStates = 16, kWarpChannels = 16, kHalf = 8;

// How a segment is cut. ends and sums, (s,pieces,d,16) and (s,pieces,d): pieces run side by side, after a pass that
// finds their ends. turns, (s,tiles) zeros, and tickets, a zero: pieces run one after the other and hand on what they
// carry.
struct GradPieces {
  int pieces = 1;
  float *ends = nullptr, *sums = nullptr;
  int *turns = nullptr, *tickets = nullptr;
};

// Tensors of raw tiles.
enum RawTile { kTileU, kTileDt, kTileGradY, kTileZ, kRawTileKinds };

template <class T, bool kEndsOnly>
struct GradWarpShared {
  T raw[2][kRawTileKinds][kScanChunk][kWarpChannels];
  float4 steps[kScanChunk][kWarpChannels / 2];  // dt, dt u of two channels
  float2 grad[kScanChunk][kWarpChannels / 2];   // of y before the gate
  // Of each lane: where it begins to copy and to write, at position 0 of the piece. Here an address costs a load and a
  // multiplication a chunk; in registers, 20 of those that the states need.
  const void* from[kRawTileKinds + 3][32];
  void* to[3][32];
  float dbias[2][32];  // of a lane's pair of channels, so far
  float bias[kWarpChannels], D[kWarpChannels];
};

// What only the gradients need.
template <class T>
struct GradWarpShared<T, false> : GradWarpShared<T, true> {
  float4 start[2][kWarpChannels][kGradStates / 4];  // checkpoints
  float4 slopes[4][32];                             // of dt, and of z times grad_y, of a lane's tokens and channels
  float4 middle[2][32];                             // states before token 8
  float4 sums[kHalf][8][8];                         // dB, dC of a token and pair of channels, swizzled
};
inline constexpr int kFromCheckpoints = kRawTileKinds, kFromRows = kRawTileKinds + 1, kFromResets = kRawTileKinds + 2;

struct GradBlockShared {
  float4 B[2][kScanChunk][kGradStates / 4], C[2][kScanChunk][kGradStates / 4];
  float4 forget[2][kScanChunk / 4];  // what is added to exponents: 0, or -1e30 where a reset makes the decay 0
};

// Sums of a warp, [2][warps][token][quad], follow the warps' parts.
template <class T, bool kEndsOnly>
std::int64_t grad_shared_bytes(int warps) {
  const std::size_t totals = kEndsOnly ? 0 : 2 * kScanChunk * 8 * sizeof(float4);
  return static_cast<std::int64_t>(sizeof(GradBlockShared) + warps * (sizeof(GradWarpShared<T, kEndsOnly>) + totals));
}

__device__ __forceinline__ int grad_steps_at(int token, int pair) {
  return pair ^ (token & 6);
}

// Where a warp is: its channels, and the chunks of its piece. Positions count from the first of these chunks.
struct GradPlace {
  ScanSequence q;
  std::int64_t channel0, first;  // chunk
  int channels;                  // there, of kWarpChannels
  int count, begin, end;         // chunks; positions of the sequence
  int lane;

  __device__ bool has(int k, int i) const { return k * kScanChunk + i >= begin && k * kScanChunk + i < end; }
  __device__ std::int64_t token(int k, int i) const { return q.token((first + k) * kScanChunk + i - q.position); }
};

// So many positions on.
template <class T>
__device__ __forceinline__ T* moved(T* from, std::int64_t stride, int sign, int positions) {
  return from + std::int64_t{positions} * (static_cast<int>(stride) * sign);
}

// Copies a warp's tiles of a chunk.
template <class T, bool kEndsOnly>
class GradLoader {
 public:
  static __device__ __forceinline__ void begin(const SelectiveScanParams<T, float>& p,
                                               const SelectiveScanGradParams<T, float>& g, const float* checkpoints,
                                               const GradPlace& at, GradWarpShared<T, kEndsOnly>& w) {
    const std::int64_t t = at.token(0, at.lane / kPieces);
    const std::int64_t c = at.channel0 + at.lane % kPieces * kNumbers;
    w.from[kTileU][at.lane] = p.u.ptr(at.q.row, t, c);
    w.from[kTileDt][at.lane] = p.dt.ptr(at.q.row, t, c);
    w.from[kTileGradY][at.lane] = g.grad_y.ptr(at.q.row, t, c);
    w.from[kTileZ][at.lane] = p.z ? p.z.ptr(at.q.row, t, c) : nullptr;
    w.from[kFromCheckpoints][at.lane] =
        checkpoints + scan_checkpoint_at(p, at.q.row, at.first, at.channel0) + at.lane * 4;
  }
  static __device__ __forceinline__ void start(const SelectiveScanParams<T, float>& p,
                                               const SelectiveScanGradParams<T, float>& g, const GradPlace& at, int k,
                                               GradWarpShared<T, kEndsOnly>& w, int buffer) {
    const int row = at.lane / kPieces, offset = at.lane % kPieces * kNumbers;
    const bool channel_there = offset < at.channels;
    auto copy = [&](RawTile tile, const View<const T, 3>& view) {
      const T* from = static_cast<const T*>(w.from[tile][at.lane]);
#pragma unroll
      for (int i = 0; i < kScanChunk; i += kRows)
        copy_async<16>(&w.raw[buffer][tile][row + i][offset],
                       moved(from, view.strides[1], at.q.sign, k * kScanChunk + i),
                       channel_there && at.has(k, row + i));
    };
    if (!kEndsOnly) copy(kTileU, p.u);
    copy(kTileDt, p.dt);
    copy(kTileGradY, g.grad_y);
    if (p.z) copy(kTileZ, p.z);
    if constexpr (!kEndsOnly) {
      const float* from = static_cast<const float*>(w.from[kFromCheckpoints][at.lane]) + k * (p.d * kGradStates);
      const bool is_checkpoint = k * kScanChunk >= at.begin;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int channel = at.lane / 4 + 8 * i;
        copy_async<16>(&w.start[buffer][channel][at.lane % 4], from + 128 * i, is_checkpoint && channel < at.channels);
      }
    }
    commit_copies();
  }

 private:
  static constexpr int kPieces = static_cast<int>(sizeof(T));  // of 16 bytes in a row
  static constexpr int kRows = 32 / kPieces, kNumbers = 16 / static_cast<int>(sizeof(T));
};

// Rows of B and C and resets of a chunk, loaded by the first 128 threads of a block: 4 states of a row each.
template <class T>
struct GradRows {
  Raw<T, 4> raw{};
  bool reset = false;

  static __device__ __forceinline__ void begin(const SelectiveScanParams<T, float>& p, const GradPlace& at,
                                               std::int64_t channel0, GradWarpShared<T, true>& w, int thread) {
    const auto& view = thread < 64 ? p.B : p.C;
    const std::int64_t t = at.token(0, thread % 64 / 4);
    w.from[kFromRows][at.lane] = view.ptr(at.q.row, t, channel0 / (p.d / view.shape[2]), thread % 4 * 4);
    w.from[kFromResets][at.lane] = p.resets ? p.resets.ptr(at.q.row, t) : nullptr;
  }
  __device__ __forceinline__ void load(const SelectiveScanParams<T, float>& p, const GradPlace& at,
                                       const GradWarpShared<T, true>& w, int k, int thread) {
    if (thread >= 128) return;
    raw = {};
    reset = false;
    if (!at.has(k, thread % 64 / 4)) return;
    const std::int64_t stride = thread < 64 ? p.B.strides[1] : p.C.strides[1];
    raw = load_raw<4>(moved(static_cast<const T*>(w.from[kFromRows][at.lane]), stride, at.q.sign, k * kScanChunk));
    if (p.resets)
      reset = *moved(static_cast<const std::uint8_t*>(w.from[kFromResets][at.lane]), p.resets.strides[1], at.q.sign,
                     k * kScanChunk) != 0;
  }
  __device__ __forceinline__ void store(GradBlockShared& block, int buffer, int thread) const {
    if (thread >= 128) return;
    float x[4];
    widen(raw, x);
    auto& rows = thread < 64 ? block.B : block.C;
    const int token = thread % 64 / 4;
    rows[buffer][token][thread % 4] = make_float4(x[0], x[1], x[2], x[3]);
    if (thread < 64 && thread % 4 == 0) reinterpret_cast<float*>(block.forget[buffer])[token] = reset ? -1e30f : 0.0f;
  }
};

// A thread's numbers over the whole piece.
struct GradThread {
  float A[2][4];  // times log2 e
  float adjoint[2][4];
  float dA[2][4] = {};
  float dD[2] = {}, dt_sum[2] = {};
};

// Step sizes, gradients before the gate and slopes of a chunk: a thread has its pair of channels at 4 tokens, 2 of each
// half, and is the one that writes their gradients.
template <class T, bool kEndsOnly>
__device__ __forceinline__ void prepare_steps(const SelectiveScanParams<T, float>& p, const GradPlace& at, int k,
                                              GradThread& s, GradWarpShared<T, kEndsOnly>& w,
                                              const GradBlockShared& block, int buffer) {
  const int pair = at.lane / 4;
  float dt[4][2], u[4][2], grad[4][2], slope[4][2], slope_z[4][2], bias[2];
  load_floats(&w.bias[2 * pair], bias);
  auto token_of = [&](int i) { return at.lane % 4 * 2 + i / 2 * 8 + i % 2; };
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int token = token_of(i);
    load_floats(&w.raw[buffer][kTileDt][token][2 * pair], dt[i]);
    load_floats(&w.raw[buffer][kTileGradY][token][2 * pair], grad[i]);
    if (!kEndsOnly) load_floats(&w.raw[buffer][kTileU][token][2 * pair], u[i]);
#pragma unroll
    for (int c = 0; c < 2; ++c) dt[i][c] += bias[c], slope[i][c] = 1, slope_z[i][c] = 0;
  }
  // One branch for all, so that their latencies overlap.
  if (p.dt_softplus) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float& x = dt[i / 2][i % 2];
      if (!kEndsOnly) slope[i / 2][i % 2] = scan_softplus_slope(x);
      x = scan_step_size<T>(x, true);
    }
  }
  if (p.z) {
    float z[4][2];
#pragma unroll
    for (int i = 0; i < 4; ++i) load_floats(&w.raw[buffer][kTileZ][token_of(i)][2 * pair], z[i]);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float& g = grad[i / 2][i % 2];
      const float gate = sigmoid(z[i / 2][i % 2]), half = g * gate;
      g = half * z[i / 2][i % 2];
      slope_z[i / 2][i % 2] = fmaf(g, 1.0f - gate, half);  // grad_y gate (1 + z (1 - gate))
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int token = token_of(i), to = grad_steps_at(token, pair);
    const bool is_token = at.has(k, token);
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      if (!is_token) dt[i][c] = 0;
      if (kEndsOnly) {
        // Nothing gets past a reset.
        const bool reset = reinterpret_cast<const float*>(block.forget[buffer])[token] != 0;
        s.dt_sum[c] += reset ? INFINITY : dt[i][c];
        u[i][c] = 0;
      } else {
        s.dD[c] = fmaf(grad[i][c], u[i][c], s.dD[c]);
      }
    }
    w.steps[token][to] = make_float4(dt[i][0], dt[i][0] * u[i][0], dt[i][1], dt[i][1] * u[i][1]);
    w.grad[token][to] = make_float2(grad[i][0], grad[i][1]);
    if constexpr (!kEndsOnly)
      w.slopes[i][at.lane] = make_float4(slope[i][0], slope[i][1], slope_z[i][0], slope_z[i][1]);
  }
}

// Sums over states of one half: two channels x tokens 2 (lane % 4) and the next.
struct HalfSums {
  float y[4] = {}, lambda_B[4] = {}, local_A[4] = {};
};

// Gradients of u, dt and z: a lane has its pair of channels at tokens 2 (lane % 4) and the next of each half.
template <class T>
class GradWriter {
 public:
  static __device__ __forceinline__ void begin(const SelectiveScanGradParams<T, float>& g, const GradPlace& at,
                                               GradWarpShared<T, false>& w) {
    const std::int64_t t = at.token(0, at.lane % 4 * 2), c = at.channel0 + at.lane / 4 * 2;
    w.to[0][at.lane] = g.grad_u ? g.grad_u.ptr(at.q.row, t, c) : nullptr;
    w.to[1][at.lane] = g.grad_dt ? g.grad_dt.ptr(at.q.row, t, c) : nullptr;
    w.to[2][at.lane] = g.grad_z ? g.grad_z.ptr(at.q.row, t, c) : nullptr;
  }
  static __device__ __forceinline__ void write(const SelectiveScanGradParams<T, float>& g, const GradPlace& at, int k,
                                               int half, GradWarpShared<T, false>& w, int buffer,
                                               const HalfSums& sums) {
    const int pair = at.lane / 4, first = half * kHalf + at.lane % 4 * 2;
    float ddt[2][2], du[2][2], dz[2][2], D[2], dbias[2] = {};
    load_floats(&w.D[2 * pair], D);
    bool there[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = first + i;
      there[i] = 2 * pair < at.channels && at.has(k, token);
      const float4 step = w.steps[token][grad_steps_at(token, pair)], slopes = w.slopes[half * 2 + i][at.lane];
      const float2 before = w.grad[token][grad_steps_at(token, pair)];
      const float dt[2] = {step.x, step.z}, grad[2] = {before.x, before.y}, slope[2] = {slopes.x, slopes.y},
                  slope_z[2] = {slopes.z, slopes.w};
      float u[2];
      load_floats(&w.raw[buffer][kTileU][token][2 * pair], u);
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float lambda_B = sums.lambda_B[2 * c + i];
        du[i][c] = fmaf(dt[c], lambda_B, D[c] * grad[c]);
        ddt[i][c] = slope[c] * fmaf(u[c], lambda_B, 0.69314718056f * sums.local_A[2 * c + i]);
        dz[i][c] = slope_z[c] * fmaf(D[c], u[c], sums.y[2 * c + i]);
        dbias[c] += there[i] ? ddt[i][c] : 0.0f;
      }
    }
#pragma unroll
    for (int c = 0; c < 2; ++c) w.dbias[c][at.lane] += dbias[c];
    store(g.grad_u, w.to[0][at.lane], at, k * kScanChunk + half * kHalf, du, there);
    store(g.grad_dt, w.to[1][at.lane], at, k * kScanChunk + half * kHalf, ddt, there);
    store(g.grad_z, w.to[2][at.lane], at, k * kScanChunk + half * kHalf, dz, there);
  }

 private:
  static __device__ __forceinline__ void store(const View<T, 3>& view, void* from, const GradPlace& at, int position,
                                               const float (&x)[2][2], const bool (&there)[2]) {
    if (!view) return;
    T* to = moved(static_cast<T*>(from), view.strides[1], at.q.sign, position);
    if (there[0]) store_floats(to, x[0]);
    if (there[1]) store_floats(moved(to, view.strides[1], at.q.sign, 1), x[1]);
  }
};

}  // namespace coluber::cuda
