// What the tiled backward of selective_scan does around its recurrence: copies of tiles into shared memory, step sizes
// and gradients before the gate, gradients of u, dt and z on the way out.
#pragma once

#include "kernels/cuda/common/activation.cuh"
#include "kernels/cuda/common/pieces.cuh"
#include "kernels/cuda/selective_scan_backward_sums.cuh"

namespace coluber::cuda {

inline constexpr int kGradStates = 16, kWarpChannels = 16, kHalf = 8;

// (s,pieces,d,16) and (s,pieces,d).
struct GradPieces {
  int pieces = 1;
  float *ends = nullptr, *sums = nullptr;
};

// Tensors of raw tiles.
enum RawTile { kRawU, kRawDt, kRawGradY, kRawZ, kRawTiles };

template <class T>
struct GradWarpShared {
  T raw[2][kRawTiles][kScanChunk][kWarpChannels];
  float4 start[2][kWarpChannels][kGradStates / 4];  // checkpoints
  float4 steps[kScanChunk][kWarpChannels / 2];      // dt, dt u of two channels
  float2 grad[kScanChunk][kWarpChannels / 2];       // of y before the gate
  float4 middle[2][32];                             // states before token 8
  float4 sums[kHalf][8][8];                         // dB, dC of a token and pair of channels, swizzled
  // Of each lane: where its copies of the next chunk come from, where its pair's gradients of this chunk go. Here they
  // cost a load and a store a chunk; in registers, 16 of those that the states need.
  const void* from[kRawTiles + 1][32];
  void* to[3][32];
  float dbias[2][32];  // of a lane's pair of channels, so far
  float bias[kWarpChannels], D[kWarpChannels];
};

struct GradBlockShared {
  float4 B[2][kScanChunk][kGradStates / 4], C[2][kScanChunk][kGradStates / 4];
  float4 forget[2][kScanChunk / 4];  // what is added to exponents: 0, or -1e30 where a reset makes the decay 0
};

// Sums of a warp, [2][warps][token][quad], follow the warps' parts.
template <class T>
std::int64_t grad_shared_bytes(int warps) {
  return static_cast<std::int64_t>(sizeof(GradBlockShared)) +
         warps * static_cast<std::int64_t>(sizeof(GradWarpShared<T>) + 2 * kScanChunk * 8 * sizeof(float4));
}

__device__ __forceinline__ int grad_steps_at(int token, int pair) {
  return pair ^ (token & 6);
}

// 16 bytes, zeros where there are none.
__device__ __forceinline__ void copy_piece(void* to, const void* from, bool there) {
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(there ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void copies_done() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

// Where a warp is: its channels, and the chunks of its piece. Positions count from the first of these chunks.
struct GradPlace {
  ScanSequence q;
  std::int64_t channel0, first;  // chunk
  int count, begin, end;         // chunks; positions of the sequence
  int lane;

  __device__ bool has(int k, int i) const { return k * kScanChunk + i >= begin && k * kScanChunk + i < end; }
  __device__ std::int64_t token(int k, int i) const { return q.token((first + k) * kScanChunk + i - q.position); }
};

// Copies a warp's tiles of the next chunk, from the last to the first.
template <class T, bool kEndsOnly>
class GradLoader {
 public:
  static __device__ __forceinline__ void begin(const SelectiveScanParams<T, float>& p,
                                               const SelectiveScanGradParams<T, float>& g, const float* checkpoints,
                                               const GradPlace& at, GradWarpShared<T>& w) {
    const std::int64_t t = at.token(at.count - 1, at.lane / kPieces);
    const std::int64_t c = at.channel0 + at.lane % kPieces * kNumbers;
    w.from[kRawU][at.lane] = p.u.ptr(at.q.row, t, c);
    w.from[kRawDt][at.lane] = p.dt.ptr(at.q.row, t, c);
    w.from[kRawGradY][at.lane] = g.grad_y.ptr(at.q.row, t, c);
    w.from[kRawZ][at.lane] = p.z ? p.z.ptr(at.q.row, t, c) : nullptr;
    w.from[kRawTiles][at.lane] =
        checkpoints + scan_checkpoint_at(p, at.q.row, at.first + at.count - 1, at.channel0) + at.lane * 4;
  }
  static __device__ __forceinline__ void start(const SelectiveScanParams<T, float>& p,
                                               const SelectiveScanGradParams<T, float>& g, const GradPlace& at, int k,
                                               GradWarpShared<T>& w, int buffer) {
    const int row = at.lane / kPieces, offset = at.lane % kPieces * kNumbers;
    const bool channel_there = at.channel0 + offset < p.d;
    auto copy = [&](RawTile tile, const View<const T, 3>& view) {
      const int step = static_cast<int>(view.strides[1]) * at.q.sign;
      const T* from = static_cast<const T*>(w.from[tile][at.lane]);
      w.from[tile][at.lane] = from - std::int64_t{kScanChunk} * step;
#pragma unroll
      for (int i = 0; i < kScanChunk; i += kRows) {
        const bool there = channel_there && at.has(k, row + i);
        copy_piece(&w.raw[buffer][tile][row + i][offset], there ? from + std::int64_t{i} * step : view.data, there);
      }
    };
    if (!kEndsOnly) copy(kRawU, p.u);
    copy(kRawDt, p.dt);
    copy(kRawGradY, g.grad_y);
    if (p.z) copy(kRawZ, p.z);
    if (kEndsOnly) return;
    const float* from = static_cast<const float*>(w.from[kRawTiles][at.lane]);
    w.from[kRawTiles][at.lane] = from - p.d * kGradStates;
    const bool is_checkpoint = k * kScanChunk >= at.begin;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int channel = at.lane / 4 + 8 * i;
      const bool there = is_checkpoint && at.channel0 + channel < p.d;
      copy_piece(&w.start[buffer][channel][at.lane % 4], there ? from + 128 * i : p.A.data, there);
    }
  }

 private:
  static constexpr int kPieces = static_cast<int>(sizeof(T));  // of 16 bytes in a row
  static constexpr int kRows = 32 / kPieces, kNumbers = 16 / static_cast<int>(sizeof(T));
};

// Rows of B and C and resets of a chunk, loaded by the threads of a block: a thread has 4 states of a row.
template <class T>
struct GradRows {
  Raw<T, 4> raw{};
  bool reset = false;

  __device__ __forceinline__ void load(const SelectiveScanParams<T, float>& p, const GradPlace& at,
                                       std::int64_t channel0, int k, int thread) {
    if (thread >= 128) return;
    const auto& view = thread < 64 ? p.B : p.C;
    const int token = thread % 64 / 4;
    raw = {};
    reset = false;
    if (!at.has(k, token)) return;
    const std::int64_t t = at.token(k, token);
    raw = load_raw<4>(view.ptr(at.q.row, t, channel0 / (p.d / view.shape[2]), thread % 4 * 4));
    reset = p.resets && p.resets(at.q.row, t) != 0;
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

// Step sizes and gradients before the gate of a chunk: a thread has its pair of channels at 4 tokens.
template <class T, bool kEndsOnly>
__device__ __forceinline__ void prepare_steps(const SelectiveScanParams<T, float>& p, const GradPlace& at, int k,
                                              GradThread& s, GradWarpShared<T>& w, const GradBlockShared& block,
                                              int buffer) {
  const int pair = at.lane / 4;
  float dt[4][2], u[4][2], grad[4][2], bias[2];
  load_floats(&w.bias[2 * pair], bias);
  auto token_of = [&](int i) { return at.lane % 4 * 2 + i / 2 * 8 + i % 2; };
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int token = token_of(i);
    load_floats(&w.raw[buffer][kRawDt][token][2 * pair], dt[i]);
    load_floats(&w.raw[buffer][kRawGradY][token][2 * pair], grad[i]);
    if (!kEndsOnly) load_floats(&w.raw[buffer][kRawU][token][2 * pair], u[i]);
#pragma unroll
    for (int c = 0; c < 2; ++c) dt[i][c] += bias[c];
  }
  // One branch for all, so that their latencies overlap.
  if (p.dt_softplus) {
#pragma unroll
    for (int i = 0; i < 8; ++i) dt[i / 2][i % 2] = scan_step_size<T>(dt[i / 2][i % 2], true);
  }
  if (p.z) {
    float z[4][2];
#pragma unroll
    for (int i = 0; i < 4; ++i) load_floats(&w.raw[buffer][kRawZ][token_of(i)][2 * pair], z[i]);
#pragma unroll
    for (int i = 0; i < 8; ++i) grad[i / 2][i % 2] *= z[i / 2][i % 2] * sigmoid(z[i / 2][i % 2]);
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
                                               GradWarpShared<T>& w) {
    const std::int64_t t = at.token(at.count - 1, at.lane % 4 * 2), c = at.channel0 + at.lane / 4 * 2;
    w.to[0][at.lane] = g.grad_u ? g.grad_u.ptr(at.q.row, t, c) : nullptr;
    w.to[1][at.lane] = g.grad_dt ? g.grad_dt.ptr(at.q.row, t, c) : nullptr;
    w.to[2][at.lane] = g.grad_z ? g.grad_z.ptr(at.q.row, t, c) : nullptr;
  }
  // The chunk before.
  static __device__ __forceinline__ void step(const SelectiveScanGradParams<T, float>& g, const GradPlace& at,
                                              GradWarpShared<T>& w) {
    auto back = [&](void*& to, const View<T, 3>& view) {
      if (view) to = static_cast<T*>(to) - std::int64_t{kScanChunk} * (static_cast<int>(view.strides[1]) * at.q.sign);
    };
    back(w.to[0][at.lane], g.grad_u);
    back(w.to[1][at.lane], g.grad_dt);
    back(w.to[2][at.lane], g.grad_z);
  }
  static __device__ __forceinline__ void write(const SelectiveScanParams<T, float>& p,
                                               const SelectiveScanGradParams<T, float>& g, const GradPlace& at, int k,
                                               int half, GradWarpShared<T>& w, int buffer, const HalfSums& sums) {
    const int pair = at.lane / 4;
    float dt[2][2], u[2][2], grad[2][2], ddt[2][2], du[2][2], slope[2][2], bias[2], D[2];
    load_floats(&w.bias[2 * pair], bias);
    load_floats(&w.D[2 * pair], D);
    bool there[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = half * kHalf + at.lane % 4 * 2 + i;
      there[i] = at.channel0 + 2 * pair < p.d && at.has(k, token);
      const float4 step = w.steps[token][grad_steps_at(token, pair)];
      const float2 before = w.grad[token][grad_steps_at(token, pair)];
      dt[i][0] = step.x, dt[i][1] = step.z, grad[i][0] = before.x, grad[i][1] = before.y;
      load_floats(&w.raw[buffer][kRawU][token][2 * pair], u[i]);
      load_floats(&w.raw[buffer][kRawDt][token][2 * pair], slope[i]);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float lambda_B = sums.lambda_B[2 * c + i], x = slope[i][c] + bias[c];
        du[i][c] = fmaf(dt[i][c], lambda_B, D[c] * grad[i][c]);
        ddt[i][c] = fmaf(u[i][c], lambda_B, 0.69314718056f * sums.local_A[2 * c + i]);
        slope[i][c] = x > 20.0f || !p.dt_softplus ? 1.0f : sigmoid(x);
        ddt[i][c] *= slope[i][c];
      }
#pragma unroll
    for (int c = 0; c < 2; ++c) w.dbias[c][at.lane] += (there[0] ? ddt[0][c] : 0.0f) + (there[1] ? ddt[1][c] : 0.0f);
    store(g.grad_u, w.to[0][at.lane], half, at.q.sign, du, there);
    store(g.grad_dt, w.to[1][at.lane], half, at.q.sign, ddt, there);
    if (!p.z || !g.grad_z) return;
    float z[2][2], grad_y[2][2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = half * kHalf + at.lane % 4 * 2 + i;
      load_floats(&w.raw[buffer][kRawZ][token][2 * pair], z[i]);
      load_floats(&w.raw[buffer][kRawGradY][token][2 * pair], grad_y[i]);
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float gate = sigmoid(z[i][c]), y = fmaf(D[c], u[i][c], sums.y[2 * c + i]);
        z[i][c] = grad_y[i][c] * y * gate * fmaf(z[i][c], 1.0f - gate, 1.0f);
      }
    }
    store(g.grad_z, w.to[2][at.lane], half, at.q.sign, z, there);
  }

 private:
  static __device__ __forceinline__ void store(const View<T, 3>& view, void* to, int half, int sign,
                                               const float (&x)[2][2], const bool (&there)[2]) {
    if (!view) return;
    const int step = static_cast<int>(view.strides[1]) * sign;
    T* at = static_cast<T*>(to) + std::int64_t{half * kHalf} * step;
    if (there[0]) store_floats(at, x[0]);
    if (there[1]) store_floats(at + step, x[1]);
  }
};

}  // namespace coluber::cuda
