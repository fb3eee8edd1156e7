// Forward of selective_scan: kernels for any shape and for one token, and the choice among them and the tiled one.
#include "kernels/cuda/common/activation.cuh"
#include "kernels/cuda/common/dependent_launch.cuh"
#include "kernels/cuda/selective_scan_tiled.cuh"

namespace coluber::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kStepThreads = 256;

// K states of a lane: numbers i, i + lanes, ... of one channel.
template <int K, bool kComplex>
struct LaneStates {
  float A[K], A_im[K];  // re times log2 e, im divided by pi
  float h[K], h_im[K];
};

// Rows of one token for a lane, and whether each state is there.
template <class T, int K, bool kComplex>
struct LaneInputs {
  float dt, u, z;
  float B[K], B_im[K], C[K], C_im[K];
  bool reset;
};

template <class T, int K, bool kComplex>
__device__ __forceinline__ void load_coefficients(const T* row, std::int64_t stride, std::int64_t n, int lane,
                                                  int lanes, float (&re)[K], float (&im)[K]) {
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const std::int64_t i = lane + k * lanes;
    re[k] = i < n ? to_float(row[(kComplex ? 2 * i : i) * stride]) : 0.0f;
    im[k] = kComplex && i < n ? to_float(row[(2 * i + 1) * stride]) : 0.0f;
  }
}

template <class T, int K, bool kComplex>
__device__ __forceinline__ float advance(LaneStates<K, kComplex>& s, const LaneInputs<T, K, kComplex>& in) {
  const float x = in.dt * in.u;
  float y = 0;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const float h = in.reset ? 0.0f : s.h[k], h_im = in.reset ? 0.0f : s.h_im[k];
    const float decay = scan_exp2(in.dt * s.A[k]);
    if constexpr (kComplex) {
      float sine, cosine;
      sincospif(in.dt * s.A_im[k], &sine, &cosine);
      const float re = decay * cosine, im = decay * sine;
      s.h[k] = fmaf(re, h, fmaf(-im, h_im, x * in.B[k]));
      s.h_im[k] = fmaf(re, h_im, fmaf(im, h, x * in.B_im[k]));
      y += 2 * (in.C[k] * s.h[k] - in.C_im[k] * s.h_im[k]);
    } else {
      s.h[k] = fmaf(decay, h, x * in.B[k]);
      y = fmaf(in.C[k], s.h[k], y);
    }
  }
  return y;
}

// Any shape and strides: `lanes` (a power of two) neighbouring lanes have one channel. Inputs of a few tokens are
// loaded at once, so that their latencies overlap; nothing is staged.
template <class T, int K, bool kComplex>
__global__ void __launch_bounds__(kThreads)
    selective_scan_fwd_any(const __grid_constant__ SelectiveScanParams<T, float> p, float* checkpoints, int lanes) {
  constexpr int kBatch = K == 1 ? 4 : 1;
  const int per_block = kThreads / lanes, lane = threadIdx.x % lanes;
  const std::int64_t blocks = (p.d + per_block - 1) / per_block, slot = blockIdx.x / blocks;
  const std::int64_t c_wanted = (blockIdx.x - slot * blocks) * per_block + threadIdx.x / lanes;
  const bool valid = c_wanted < p.d;  // the others do the last channel's work: sums need all lanes
  const std::int64_t c = valid ? c_wanted : p.d - 1;
  const ScanSequence q = scan_sequence(p, slot);
  const std::int64_t group_B = c / (p.d / p.B.shape[2]), group_C = c / (p.d / p.C.shape[2]);
  const float bias = p.dt_bias != nullptr ? p.dt_bias[c] : 0.0f, D = p.D != nullptr ? p.D[c] : 0.0f;

  LaneStates<K, kComplex> s;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const std::int64_t i = lane + k * lanes, at = kComplex ? 2 * i : i;
    const bool has = i < p.n, from = has && p.state_in;
    s.A[k] = has ? p.A(c, at) * kScanLog2E : 0.0f;
    s.A_im[k] = kComplex && has ? p.A(c, at + 1) * 0.31830988618f : 0.0f;
    s.h[k] = from ? p.state_in(slot, c, at) : 0.0f;
    s.h_im[k] = kComplex && from ? p.state_in(slot, c, at + 1) : 0.0f;
  }
  auto store = [&](float* to, std::int64_t stride) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const std::int64_t i = lane + k * lanes, at = kComplex ? 2 * i : i;
      if (!valid || i >= p.n) continue;
      to[at * stride] = s.h[k];
      if constexpr (kComplex) to[(at + 1) * stride] = s.h_im[k];
    }
  };
  for (std::int64_t first = 0; first < q.length; first += kBatch) {
    LaneInputs<T, K, kComplex> in[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const std::int64_t t = q.token(min(first + i, q.length - 1));
      in[i].dt = to_float(p.dt(q.row, t, c));
      in[i].u = to_float(p.u(q.row, t, c));
      in[i].z = p.z ? to_float(p.z(q.row, t, c)) : 0.0f;
      in[i].reset = p.resets && p.resets(q.row, t) != 0;
      load_coefficients<T, K, kComplex>(p.B.ptr(q.row, t, group_B), p.B.strides[3], p.n, lane, lanes, in[i].B,
                                        in[i].B_im);
      load_coefficients<T, K, kComplex>(p.C.ptr(q.row, t, group_C), p.C.strides[3], p.n, lane, lanes, in[i].C,
                                        in[i].C_im);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const std::int64_t step = first + i, position = q.position + step;
      if (step >= q.length) break;
      if (checkpoints != nullptr && position % kScanChunk == 0)
        store(checkpoints + scan_checkpoint_at(p, q.row, position / kScanChunk, c), 1);
      in[i].dt = scan_step_size<T>(in[i].dt + bias, p.dt_softplus);
      float y = advance(s, in[i]);
      for (int other = lanes / 2; other > 0; other /= 2) y += __shfl_xor_sync(~0u, y, other);
      if (!valid || lane != 0) continue;
      y = fmaf(D, in[i].u, y);
      p.y(q.row, q.token(step), c) = from_float<T>(p.z ? y * silu(in[i].z) : y);
    }
  }
  if (p.state_out) store(p.state_out.ptr(slot, c), p.state_out.strides[2]);
}

// One token of real states: 8 bytes of states move for every 3 operations, so a thread has 4 states, read and written
// by 16 bytes. `quads` (a power of two up to 32) neighbouring lanes have one channel.
template <class T>
__global__ void __launch_bounds__(kStepThreads)
    selective_scan_step_rows(const __grid_constant__ SelectiveScanParams<T, float> p, int quads_log2) {
  const unsigned wanted = blockIdx.x * kStepThreads + threadIdx.x;
  const unsigned c = min(wanted >> quads_log2, static_cast<unsigned>(p.d) - 1), quads = 1u << quads_log2;
  const bool valid = wanted >> quads_log2 < p.d;
  const unsigned n = (wanted & (quads - 1)) * 4;
  auto group = [&](std::int64_t groups) { return groups == 1 ? 0u : c / static_cast<unsigned>(p.d / groups); };
  const unsigned group_B = group(p.B.shape[2]), group_C = group(p.C.shape[2]);
  float A[4];
  load_floats(p.A.ptr(c, n), A);
  const float bias = p.dt_bias != nullptr ? p.dt_bias[c] : 0.0f, D = p.D != nullptr ? p.D[c] : 0.0f;
  for (std::int64_t slot = blockIdx.y; slot < p.u.shape[0]; slot += gridDim.y) {
    const bool fresh = !p.state_in || (p.resets && p.resets(slot, 0) != 0);
    float h[4] = {}, B[4], C[4];
    if (!fresh) load_floats(p.state_in.ptr(slot, c, n), h);
    load_floats(p.B.ptr(slot, 0, group_B, n), B);
    load_floats(p.C.ptr(slot, 0, group_C, n), C);
    const float u = to_float(p.u(slot, 0, c));
    const float z = p.z ? to_float(p.z(slot, 0, c)) : 0.0f;
    const float dt = scan_step_size<T>(to_float(p.dt(slot, 0, c)) + bias, p.dt_softplus), x = dt * u;
    float y = 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      h[k] = fmaf(scan_exp2(dt * kScanLog2E * A[k]), h[k], x * B[k]);
      y = fmaf(C[k], h[k], y);
    }
    if (p.state_out && valid) store_floats(p.state_out.ptr(slot, c, n), h);
    for (unsigned other = quads / 2; other > 0; other /= 2) y += __shfl_xor_sync(~0u, y, other);
    if (!valid || n != 0) continue;
    y = fmaf(D, u, y);
    p.y(slot, 0, c) = from_float<T>(p.z ? y * silu(z) : y);
  }
}

// Whether all rows of a view begin at a multiple of so many bytes.
template <class T, int Rank>
bool rows_aligned(const View<T, Rank>& view, std::int64_t bytes) {
  if (!view) return true;
  bool ok = is_aligned(view.data, bytes) && (view.shape[Rank - 1] == 1 || view.strides[Rank - 1] == 1);
  for (int axis = 0; axis < Rank - 1; ++axis)
    ok = ok && (view.shape[axis] == 1 || view.strides[axis] * static_cast<std::int64_t>(sizeof(T)) % bytes == 0);
  return ok;
}

template <class T>
bool step_fits(const SelectiveScanParams<T, float>& p) {
  const std::int64_t quads = p.n / 4;
  return p.u.shape[1] == 1 && p.sequences == nullptr && p.d < (std::int64_t{1} << 26) && !p.is_complex &&
         p.n % 4 == 0 && quads <= 32 && (quads & (quads - 1)) == 0 && rows_aligned(p.A, 16) &&
         rows_aligned(p.state_in, 16) && rows_aligned(p.state_out, 16) && rows_aligned(p.B, 4 * sizeof(T)) &&
         rows_aligned(p.C, 4 * sizeof(T));
}

// Whether all channels of a block read the same rows of B and C.
template <class Tile, class T>
bool whole_groups(const SelectiveScanParams<T, float>& p) {
  auto whole = [&](std::int64_t groups) { return groups == 1 || p.d / groups % Tile::kChannels == 0; };
  return whole(p.B.shape[2]) && whole(p.C.shape[2]);
}

template <class T>
bool tiled_fits(const SelectiveScanParams<T, float>& p) {
  return !p.is_complex && p.n == kTiledStates && p.u.shape[1] < (std::int64_t{1} << 30) && !p.B_is_constant &&
         !p.C_is_constant && p.d % 8 == 0 && whole_groups<WideTile>(p) && rows_aligned(p.u, 16) &&
         rows_aligned(p.dt, 16) && rows_aligned(p.z, 16) && rows_aligned(p.y, 16) && rows_aligned(p.B, 4 * sizeof(T)) &&
         rows_aligned(p.C, 4 * sizeof(T));
}

template <class T>
void launch_any(const Stream& stream, const SelectiveScanParams<T, float>& p, float* checkpoints) {
  int lanes = 1;
  while (lanes < 32 && lanes < p.n) lanes *= 2;
  const auto grid = static_cast<unsigned>(scan_slots(p) * divide_up(p.d, kThreads / lanes));
  auto run = [&](auto kernel) { kernel<<<grid, kThreads, 0, handle_of(stream)>>>(p, checkpoints, lanes); };
  if (p.n <= 32)
    p.is_complex ? run(selective_scan_fwd_any<T, 1, true>) : run(selective_scan_fwd_any<T, 1, false>);
  else
    p.is_complex ? run(selective_scan_fwd_any<T, 8, true>) : run(selective_scan_fwd_any<T, 8, false>);
  check_launch("selective_scan_fwd_any");
}

template <class T>
void launch_step(const Stream& stream, const SelectiveScanParams<T, float>& p) {
  int quads_log2 = 0;
  while (4 << quads_log2 < p.n) ++quads_log2;
  const dim3 grid(static_cast<unsigned>(divide_up(p.d << quads_log2, kStepThreads)),
                  static_cast<unsigned>(std::min<std::int64_t>(p.u.shape[0], 65535)));
  selective_scan_step_rows<T><<<grid, kStepThreads, 0, handle_of(stream)>>>(p, quads_log2);
  check_launch("selective_scan_step_rows");
}

// Time of one pass in tiles: kTogether blocks share a multiprocessor, and fewer take less time than all of them. Every
// block fills and drains its pipeline and reads what pieces before it left, so many small pieces are slow.
double pass_cost(std::int64_t blocks, std::int64_t tiles, std::int64_t processors, std::int64_t together) {
  constexpr double kAlone = 0.5, kFill = 3;
  const std::int64_t waves = blocks / (together * processors), rest = blocks % (together * processors);
  const double share = static_cast<double>(divide_up(rest, processors)) / static_cast<double>(together);
  return (static_cast<double>(waves) + (rest == 0 ? 0 : kAlone + (1 - kAlone) * share)) *
             (static_cast<double>(tiles) + kFill) +
         kFill;
}

// The same of blocks of few channels that have a multiprocessor each. Fitted: on an H200 they are faster at B1 D5120
// with 2048 and 8192 tokens and at B1 D1536 L128, slower at B1 D4096 L2048, B1 D2560 L512 and B2 D768 L300.
double narrow_cost(std::int64_t tiles) {
  constexpr double kTile = 0.355, kBegin = 7.47;
  return kTile * static_cast<double>(tiles) + kBegin;
}

// How sequences are cut, and the cost; at least 4 tiles a part. Pass one seldom walks all of a long part: these are
// left whole, and there are no more of them than run at once.
ScanPieces choose_pieces(std::int64_t blocks, std::int64_t tiles, std::int64_t processors, double& best_cost) {
  constexpr double kPassOne = 0.55;  // a tile without outputs, to one with them, when the multiprocessor is full
  constexpr int kMost = 32, kMostFiner = 4, kLongPart = 64;
  constexpr std::int64_t kMostWalked = 192;  // tiles of a part in pass one, for steps as of trained models
  ScanPieces best;
  best_cost = pass_cost(blocks, tiles, processors, kTogether);
  for (int pieces = 2; pieces <= kMost && (pieces == 2 || blocks * pieces <= kTogether * processors); ++pieces)
    for (int finer = 1; finer <= kMostFiner && tiles / (pieces * finer) >= 4; ++finer) {
      const std::int64_t each = divide_up(tiles, pieces * finer);
      if (finer > 1 && each * finer > kLongPart) break;
      const double one =
          kPassOne * kTogetherOne / kTogether *
          pass_cost(blocks * (pieces - 1) * finer, std::min(each, kMostWalked), processors, kTogetherOne);
      const double cost = pass_cost(blocks * pieces, each * finer, processors, kTogether) + one;
      if (cost < best_cost) {
        best.pieces = pieces;
        best.finer = finer;
        best_cost = cost;
      }
    }
  return best;
}

template <class T>
void launch_tiled(const Stream& stream, const SelectiveScanParams<T, float>& p, float* checkpoints) {
  Scratch scratch(stream);
  const std::int64_t slots = scan_slots(p), blocks = slots * divide_up(p.d, WideTile::kChannels);
  const std::int64_t tiles = divide_up(p.u.shape[0] * p.u.shape[1] / slots, kTileTokens);  // of a sequence on average
  double cost = 0;
  ScanPieces pieces = choose_pieces(blocks, tiles, multiprocessors(stream.device), cost);
  auto launch = [&](auto* kernel, std::int64_t grid, int threads, std::size_t shared, float* to, bool behind) {
    allow_shared_bytes(kernel, shared);
    LaunchShape shape;
    shape.grid = static_cast<unsigned>(grid);
    shape.threads = static_cast<unsigned>(threads);
    shape.shared_bytes = shared;
    shape.early = behind;
    launch_dependent(kernel, shape, stream, p, to, pieces);
  };
  const std::int64_t narrow = slots * divide_up(p.d, NarrowTile::kChannels);
  if (whole_groups<NarrowTile>(p) && narrow <= multiprocessors(stream.device) && narrow_cost(tiles) < cost) {
    pieces = {};
    return launch(selective_scan_fwd_tiled<T, false, NarrowTile>, narrow, NarrowTile::kThreads,
                  sizeof(TiledShared<T, false, NarrowTile>), checkpoints, false);
  }
  if (pieces.pieces > 1) {
    pieces.ends = scratch.allocate<float>(slots * pieces.parts() * p.d * kTiledStates);
    pieces.sums = scratch.allocate<float>(slots * pieces.parts() * p.d);
    pieces.start = scratch.allocate<float>(slots * p.d * kTiledStates);
    launch(selective_scan_fwd_tiled<T, true, WideTile>, blocks * (pieces.pieces - 1) * pieces.finer, WideTile::kThreads,
           sizeof(TiledShared<T, true, WideTile>), nullptr, false);
  }
  launch(selective_scan_fwd_tiled<T, false, WideTile>, blocks * pieces.pieces, WideTile::kThreads,
         sizeof(TiledShared<T, false, WideTile>), checkpoints, pieces.pieces > 1);
}

}  // namespace

// None where all sequences begin in the one chunk that there is: the backward for any shape starts from state_in.
template <class T>
std::int64_t selective_scan_checkpoint_elems(const Stream&, const SelectiveScanParams<T, float>& p) {
  if (scan_chunks(p) <= 1 && !tiled_fits(p)) return 0;
  return p.u.shape[0] * scan_chunks(p) * p.d * scan_width(p);
}

template <class T>
void selective_scan_forward(const Stream& stream, const SelectiveScanParams<T, float>& p, float* checkpoints) {
  const DeviceScope device(stream.device);
  if (selective_scan_checkpoint_elems(stream, p) == 0) checkpoints = nullptr;
  if (checkpoints == nullptr && step_fits(p))
    launch_step(stream, p);
  else if (tiled_fits(p))
    launch_tiled(stream, p, checkpoints);
  else
    launch_any(stream, p, checkpoints);
}

template std::int64_t selective_scan_checkpoint_elems(const Stream&, const SelectiveScanParams<float, float>&);
template std::int64_t selective_scan_checkpoint_elems(const Stream&, const SelectiveScanParams<bfloat16, float>&);
template std::int64_t selective_scan_checkpoint_elems(const Stream&, const SelectiveScanParams<float16, float>&);
template void selective_scan_forward(const Stream&, const SelectiveScanParams<float, float>&, float*);
template void selective_scan_forward(const Stream&, const SelectiveScanParams<bfloat16, float>&, float*);
template void selective_scan_forward(const Stream&, const SelectiveScanParams<float16, float>&, float*);

}  // namespace coluber::cuda
