// Backward of selective_scan: memory and segments of a call, and the choice between the kernel in tiles and the one
// for any shape.
#include <cmath>
#include <numeric>
#include <utility>

#include "kernels/cuda/common/partial_sums.cuh"
#include "kernels/cuda/selective_scan_backward_any.cuh"
#include "kernels/cuda/selective_scan_backward_tiled.cuh"

namespace coluber::cuda {
namespace {

constexpr std::int64_t kMostSlabBytes = std::int64_t{768} << 20;

template <class T, int Rank>
bool rows_aligned(const View<T, Rank>& view, std::int64_t bytes) {
  if (!view) return true;
  bool ok = is_aligned(view.data, bytes) && (view.shape[Rank - 1] == 1 || view.strides[Rank - 1] == 1);
  for (int axis = 0; axis < Rank - 1; ++axis)
    ok = ok && (view.shape[axis] == 1 || view.strides[axis] * static_cast<std::int64_t>(sizeof(T)) % bytes == 0);
  return ok;
}

// Scan warps of a block of the tiled kernel, or 0: not for it.
template <class T>
int tiled_warps(const Stream& stream, const SelectiveScanParams<T, float>& p,
                const SelectiveScanGradParams<T, float>& g) {
  const bool fits = p.u.shape[1] < (std::int64_t{1} << 30) && !p.is_complex && p.n == kGradStates && !p.B_is_constant &&
                    !p.C_is_constant && p.d % 8 == 0 && rows_aligned(p.u, 16) && rows_aligned(p.dt, 16) &&
                    rows_aligned(p.z, 16) && rows_aligned(g.grad_y, 16) && rows_aligned(p.B, 4 * sizeof(T)) &&
                    rows_aligned(p.C, 4 * sizeof(T)) && rows_aligned(g.grad_u, 16) && rows_aligned(g.grad_dt, 16) &&
                    rows_aligned(g.grad_z, 16);
  const std::int64_t limit = most_shared_bytes(stream.device);
  for (int warps = kMostWarps; fits && warps >= 4; warps /= 2) {
    auto whole = [&](std::int64_t groups) { return groups == 1 || p.d / groups % (warps * kWarpChannels) == 0; };
    if (whole(p.B.shape[2]) && whole(p.C.shape[2]) && grad_shared_bytes<T, false>(warps) <= limit) return warps;
  }
  return 0;
}

// Whether a block has warps of their own for sums over channels: 16-bit numbers, 128 channels, and code in which
// registers move, which has as many threads.
template <class T>
bool has_adders(int warps) {
  if constexpr (sizeof(T) == 2)
    return warps == kMostWarps &&
           most_threads(selective_scan_bwd_tiled<T, false, true>) >= kMostWarps * kThreadsOfWarp<true>;
  return false;
}

// What both kernels need besides the inputs, in memory of one call.
template <class T>
struct Plan {
  const SelectiveScanParams<T, float>& p;
  const SelectiveScanGradParams<T, float>& g;
  const float* checkpoints;
  Scratch& scratch;
  ScanSegment segment;
  ScanTokenSums sums;
  std::int64_t parts = 0;
  float* carry[2] = {};

  std::int64_t width_B() const { return p.B_is_constant ? 0 : scan_width(p); }
  std::int64_t width_C() const { return p.C_is_constant ? 0 : scan_width(p); }

  // Tiles of the segment are set.
  void allocate(const Stream& stream, std::int64_t parts_wanted, bool carries = false) {
    parts = parts_wanted;
    const std::int64_t width = scan_width(p), chunks = scan_chunks(p);
    const std::int64_t chunk_numbers = segment.tiles * p.u.shape[0] * kScanChunk * (width_B() + width_C());
    segment.chunks = std::clamp<std::int64_t>(kMostSlabBytes / 4 / std::max<std::int64_t>(chunk_numbers, 1), 1, chunks);
    segment.slab = scratch.template allocate<float>(segment.chunks * chunk_numbers);
    if (segment.chunks < chunks || carries)
      for (float*& to : carry) to = scratch.template allocate<float>(scan_slots(p) * p.d * width);
    const std::int64_t plane = parts * p.d, constants = int{p.B_is_constant} + int{p.C_is_constant};
    const std::int64_t zeros = plane * (width + 2 + constants * width);
    sums.A = scratch.template allocate<float>(zeros);
    check(cudaMemsetAsync(sums.A, 0, static_cast<std::size_t>(zeros) * 4, handle_of(stream)), "cudaMemsetAsync");
    sums.dt_bias = sums.A + plane * (width + 1);
    float* constant = sums.dt_bias + plane;
    if (p.B_is_constant) sums.B = std::exchange(constant, constant + plane * width);
    if (p.C_is_constant) sums.C = constant;
  }

  // Segments from the last to the first; launch(segment, carry_out) runs the kernels of one.
  template <class F>
  void run(const Stream& stream, F&& launch) {
    int turn = 0;
    for (std::int64_t end = scan_chunks(p); end > 0; end -= segment.chunks, turn ^= 1) {
      ScanSegment now = segment;
      now.end = end;
      now.first = std::max<std::int64_t>(end - segment.chunks, 0);
      now.carry = carry[turn];
      launch(now, carry[turn ^ 1]);
      const std::int64_t width = width_B() + width_C();
      ScanCoefficientPair<T> slabs;
      if (width_B() > 0) slabs.of[0] = slab_sums(now, g.grad_B, 0, width, p.reverse);
      if (width_C() > 0) slabs.of[1] = slab_sums(now, g.grad_C, width_B(), width, p.reverse);
      add_coefficients(stream, slabs);
    }
    const std::int64_t width = scan_width(p);
    add_partial_sums(stream,
                     {sums.A, parts, p.d, width, g.grad_A.data, g.grad_A.strides[1], g.grad_A.strides[0], g.grad_D});
    add_partial_sums(stream, {sums.dt_bias, parts, p.d, 0, nullptr, 0, 0, g.grad_dt_bias});
    ScanCoefficientPair<T> constants;
    if (p.B_is_constant) constants.of[0] = constant_sums(sums.B, parts, g.grad_B);
    if (p.C_is_constant) constants.of[1] = constant_sums(sums.C, parts, g.grad_C);
    add_coefficients(stream, constants);
  }
};

template <class T, int K, bool kComplex>
void launch_any(const Stream& stream, Plan<T>& plan, int lanes, int threads, std::int64_t shared) {
  auto* kernel = selective_scan_bwd_any<T, K, kComplex>;
  allow_shared_bytes(kernel, static_cast<std::size_t>(shared));
  plan.run(stream, [&](const ScanSegment& segment, float*) {
    // A block reads and writes only its own channels' carry: one buffer does.
    ScanSegment own = segment;
    own.carry = plan.carry[0];
    const auto grid = static_cast<unsigned>(scan_slots(plan.p) * segment.tiles);
    kernel<<<grid, threads, static_cast<std::size_t>(shared), handle_of(stream)>>>(plan.p, plan.g, plan.checkpoints,
                                                                                   own, plan.sums, lanes);
    check_launch("selective_scan_bwd_any");
  });
}

template <class T>
void run_any(const Stream& stream, Plan<T>& plan) {
  constexpr std::int64_t kMostShared = 64 << 10;
  const auto& p = plan.p;
  int lanes = 1, threads = kAnyThreads;
  while (lanes < 32 && lanes < p.n) lanes *= 2;
  const int states = p.n <= 32 ? 1 : 8, numbers = p.is_complex ? 2 * states : states;
  auto bytes = [&] { return std::int64_t{2} * 4 * kScanChunk * numbers * threads; };
  while (bytes() > kMostShared) threads /= 2;
  ScanSegment& s = plan.segment;
  s.unit = p.d;
  if (!p.B_is_constant) s.unit = std::gcd(s.unit, p.d / p.B.shape[2]);
  if (!p.C_is_constant) s.unit = std::gcd(s.unit, p.d / p.C.shape[2]);
  s.tiles_of_unit = divide_up(s.unit, threads / lanes);
  s.tiles = p.d / s.unit * s.tiles_of_unit;
  plan.allocate(stream, scan_slots(p));
  if (states == 1) {
    p.is_complex ? launch_any<T, 1, true>(stream, plan, lanes, threads, bytes())
                 : launch_any<T, 1, false>(stream, plan, lanes, threads, bytes());
  } else {
    p.is_complex ? launch_any<T, 8, true>(stream, plan, lanes, threads, bytes())
                 : launch_any<T, 8, false>(stream, plan, lanes, threads, bytes());
  }
}

// How sequences are cut; at least 4 chunks a piece, but for the first of unequal ones.
struct Cut {
  int pieces = 1, finer = 1;
  std::int64_t large = 1;  // chunks of all pieces but the first
  bool in_turn = false;
  double cost = 0;
};

// When blocks end that take places as they come: `count` of `each` chunks, then `rest_count` of `rest`.
double end_of(std::int64_t count, std::int64_t each, std::int64_t rest_count, std::int64_t rest, std::int64_t room) {
  constexpr double kBegin = 1;
  const double large = static_cast<double>(each) + kBegin, small = static_cast<double>(rest) + kBegin;
  const double full = static_cast<double>(count / room) * large;  // until then all places are taken
  const auto busy = static_cast<double>(count % room), idle = static_cast<double>(room) - busy;
  const double end = full + (busy > 0 ? large : 0);
  if (rest == 0 || rest_count == 0) return end;
  const double beside = std::floor((end - full) / small) * idle;  // smaller ones that end before the last large one
  return end + std::ceil(std::max(static_cast<double>(rest_count) - beside, 0.0) / static_cast<double>(room)) * small;
}

// Times are in chunks of a block. Pieces side by side need a pass for their ends, which seldom walks all of a long
// part; pieces in turn are no faster than the chunks of a sequence.
Cut choose_cut(std::int64_t blocks, std::int64_t chunks, std::int64_t room, std::int64_t processors) {
  constexpr double kPassOne = 0.4, kLaunch = 3;
  constexpr std::int64_t kLongPart = 192, kMost = 64;
  Cut best{1, 1, 1, false, end_of(blocks, chunks, 0, 0, room)};
  auto consider = [&](const Cut& cut) {
    if (cut.cost < best.cost) best = cut;
  };
  for (std::int64_t pieces = 2; pieces <= kMost && chunks / pieces >= 4; ++pieces) {
    const std::int64_t even = divide_up(chunks, pieces);
    if (blocks >= room) {
      consider({static_cast<int>(pieces), 1, even, true, end_of(blocks * pieces, even, 0, 0, room)});
      continue;
    }
    if (blocks * (pieces - 1) > room) break;
    const std::int64_t balanced = divide_up(blocks * chunks, room);
    for (const std::int64_t large : {even, balanced, balanced + 1, balanced + 2, balanced + 4}) {
      const std::int64_t rest = chunks - (pieces - 1) * large;
      if (large < 4 || rest <= 0 || rest > large) continue;
      for (const int finer : {1, 2, 4}) {
        const std::int64_t part = divide_up(large, finer);
        if (finer > 1 && (part < 4 || large > kLongPart)) break;
        const double one =
            end_of(blocks * (pieces - 1) * finer, std::min(part, kLongPart), 0, 0, kEndsTogether * processors);
        const double two = end_of(blocks * (pieces - 1), large, blocks, rest, room);
        consider({static_cast<int>(pieces), finer, large, false, two + kPassOne * one + kLaunch});
      }
    }
  }
  return best;
}

template <class T>
void run_tiled(const Stream& stream, Plan<T>& plan, int warps) {
  const auto& p = plan.p;
  plan.segment.unit = p.d;
  plan.segment.tiles = plan.segment.tiles_of_unit = divide_up(p.d, warps * kWarpChannels);
  const std::int64_t slots = scan_slots(p), blocks = slots * plan.segment.tiles;
  auto shared_of = [&](bool ends_only) {
    return static_cast<std::size_t>(ends_only ? grad_shared_bytes<T, true>(warps) : grad_shared_bytes<T, false>(warps));
  };
  const bool adders = has_adders<T>(warps);
  auto* const ends = selective_scan_bwd_tiled<T, true, false>;
  auto* const gradients =
      adders ? selective_scan_bwd_tiled<T, false, sizeof(T) == 2> : selective_scan_bwd_tiled<T, false, false>;
  const int threads = warps * (adders ? kThreadsOfWarp<true> : kThreadsOfWarp<false>);
  allow_shared_bytes(gradients, shared_of(false));
  allow_shared_bytes(ends, shared_of(true));
  int at_once = 0;  // blocks of a multiprocessor
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&at_once, gradients, threads, shared_of(false)),
        "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  const std::int64_t chunks = std::max<std::int64_t>(divide_up(p.u.shape[0] * p.u.shape[1] / slots, kScanChunk), 1);
  const Cut cut = choose_cut(blocks, chunks, std::int64_t{at_once} * multiprocessors(stream.device),
                             multiprocessors(stream.device));
  plan.allocate(stream, slots * cut.pieces, cut.in_turn);
  GradPieces pieces;
  pieces.pieces = cut.pieces;
  pieces.finer = cut.finer;
  pieces.large = cut.large;
  pieces.total = chunks;
  const bool side_by_side = cut.pieces > 1 && !cut.in_turn;
  if (side_by_side) {
    pieces.ends = plan.scratch.template allocate<float>(slots * pieces.parts() * p.d * kGradStates);
    pieces.sums = plan.scratch.template allocate<float>(slots * pieces.parts() * p.d);
  }
  if (cut.in_turn) {
    pieces.turns = plan.scratch.template allocate<int>(blocks + 1);
    pieces.tickets = pieces.turns + blocks;
  }
  auto launch = [&](auto* kernel, bool ends_only, const ScanSegment& segment, float* carry_out) {
    LaunchShape shape;
    shape.grid = static_cast<unsigned>(blocks * (ends_only ? (cut.pieces - 1) * cut.finer : cut.pieces));
    shape.threads = static_cast<unsigned>(ends_only ? warps * kThreadsOfWarp<false> : threads);
    shape.shared_bytes = shared_of(ends_only);
    shape.early = side_by_side && !ends_only;  // behind pass one
    launch_dependent(kernel, shape, stream, p, plan.g, plan.checkpoints, segment, pieces, plan.sums, carry_out);
  };
  plan.run(stream, [&](const ScanSegment& segment, float* carry_out) {
    if (side_by_side) launch(ends, true, segment, carry_out);
    if (!cut.in_turn) return launch(gradients, false, segment, carry_out);
    // A piece has read what it was handed before it hands on its own: one buffer does.
    check(cudaMemsetAsync(pieces.turns, 0, static_cast<std::size_t>(blocks + 1) * sizeof(int), handle_of(stream)),
          "cudaMemsetAsync");
    ScanSegment own = segment;
    own.carry = plan.carry[0];
    launch(gradients, false, own, plan.carry[0]);
  });
}

}  // namespace

template <class T>
void selective_scan_backward(const Stream& stream, const SelectiveScanParams<T, float>& p, const float* checkpoints,
                             const SelectiveScanGradParams<T, float>& g) {
  const DeviceScope device(stream.device);
  Scratch scratch(stream);
  const bool needed = selective_scan_checkpoint_elems(stream, p) > 0;
  if (!needed) checkpoints = nullptr;
  if (needed && checkpoints == nullptr) {
    SelectiveScanParams<T, float> forward = p;
    forward.state_out = {};
    forward.z = {};
    const std::int64_t b = p.u.shape[0], l = p.u.shape[1];
    forward.y = {scratch.allocate<T>(b * l * p.d), {b, l, p.d}, {l * p.d, p.d, 1}};
    float* to = scratch.allocate<float>(selective_scan_checkpoint_elems(stream, p));
    selective_scan_forward(stream, forward, to);
    checkpoints = to;
  }
  Plan<T> plan{p, g, checkpoints, scratch, {}, {}};
  const int warps = needed && is_aligned(checkpoints, 16) ? tiled_warps(stream, p, g) : 0;
  if (warps > 0)
    run_tiled(stream, plan, warps);
  else
    run_any(stream, plan);
}

template void selective_scan_backward(const Stream&, const SelectiveScanParams<float, float>&, const float*,
                                      const SelectiveScanGradParams<float, float>&);
template void selective_scan_backward(const Stream&, const SelectiveScanParams<bfloat16, float>&, const float*,
                                      const SelectiveScanGradParams<bfloat16, float>&);
template void selective_scan_backward(const Stream&, const SelectiveScanParams<float16, float>&, const float*,
                                      const SelectiveScanGradParams<float16, float>&);

}  // namespace coluber::cuda
