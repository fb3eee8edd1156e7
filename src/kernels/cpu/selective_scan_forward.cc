// Forward and step of selective_scan for one instruction set (selective_scan_isa.h).
//
// A piece of one vector of channels: dt, dt u and D u of all its tokens first (softplus once per token and channel),
// then blocks of states sweep over the tokens with states and rates in registers, then the gate. Per state and vector:
// 9 multiply-adds (exp2 6, state 2, output 1) and 3 other operations.
#include "kernels/cpu/selective_scan_rows.h"

namespace coluber::cpu::COLUBER_ISA {
namespace {

// AVX-512 has 32 registers: 8 states, 8 rates and room for the polynomial.
template <class E>
constexpr int kBlockStates = (kLanes == 16 ? 8 : 4) / E::kElems;

// Of one vector of channels.
struct Tiles {
  float *dt, *x, *y;  // (token,lanes): step size, dt u, output
  float* h;           // (n,e,lanes)
  float *B, *C;       // gathered rows (token,kBlockStates,e,lanes)
};

struct Block {
  std::int64_t first_vec, num_vecs;
  Tiles tiles[kScanMostBlock];
};

template <class E, int kStates, bool kPerLane>
void sweep(const Tiles& tiles, std::int64_t count, const float* A, RowsOf B, RowsOf C, Ahead& ahead, float* h) {
  constexpr int kTile = E::kElems * kLanes;
  constexpr int kNext = kPerLane ? kTile : E::kElems;
  E rate[kStates], state[kStates];
  for (int j = 0; j < kStates; ++j) {
    rate[j] = E::load_tile(A + j * kTile);
    state[j] = E::load_tile(h + j * kTile);
  }
  for (std::int64_t t = 0; t < count; ++t) {
    const VecF dt = load(tiles.dt + t * kLanes), x = load(tiles.x + t * kLanes);
    const float *b = B.at + t * B.step, *c = C.at + t * C.step;
    VecF y = load(tiles.y + t * kLanes);
    ahead.ask();
#pragma GCC unroll 8
    for (int j = 0; j < kStates; ++j) {
      state[j] = E::next(E::decay(dt, rate[j]), state[j], x, read_row<E, kPerLane>(b + j * kNext));
      y = E::add_output(y, read_row<E, kPerLane>(c + j * kNext), state[j]);
    }
    store(tiles.y + t * kLanes, y);
  }
  for (int j = 0; j < kStates; ++j) state[j].store_tile(h + j * kTile);
}

template <class E, bool kPerLane>
void sweep_states(const ScanCall& call, const ScanPiece& piece, const Block& block, std::int64_t i, Ahead& ahead) {
  constexpr int kTile = E::kElems * kLanes;
  const std::int64_t v = block.first_vec + i, n = call.p->n;
  const Tiles& tiles = block.tiles[i];
  const float* A = call.A + v * n * kTile;
  for_state_blocks<kBlockStates<E>>(n, [&](auto states, std::int64_t first) {
    constexpr int kStates = decltype(states)::value;
    const RowsOf B = rows_of<kPerLane>(call, call.B, piece, v, first, kStates, tiles.B);
    const RowsOf C = rows_of<kPerLane>(call, call.C, piece, v, first, kStates, tiles.C);
    ahead.pace(kStates, n);
    sweep<E, kStates, kPerLane>(tiles, piece.count, A + first * kTile, B, C, ahead, tiles.h + first * kTile);
  });
}

// dt, dt u and D u / kOutputScale of every token; adds dt to dt_sum.
template <class E>
void prepare(const ScanCall& call, const ScanPiece& piece, const ScanTask& task, const Block& block) {
  const SelectiveScanParams<float>& p = *call.p;
  const Channels channels(p.d, block.first_vec, block.num_vecs);
  const TokenRows<const float> dts(p.dt, p, piece, channels), us(p.u, p, piece, channels);
  VecF D[kScanMostBlock], bias[kScanMostBlock];
  for (std::int64_t i = 0; i < block.num_vecs; ++i) {
    D[i] = channels.load(p.D, i) * (1 / E::kOutputScale);
    bias[i] = channels.load(p.dt_bias, i);
  }
  for (std::int64_t t = 0; t < piece.count; ++t) {
    for (std::int64_t i = 0; i < block.num_vecs; ++i) {
      const Tiles& tiles = block.tiles[i];
      const VecF dt = step_size(p, dts.load(t, i) + bias[i]), u = task.decay_only ? VecF{} : us.load(t, i);
      store(tiles.dt + t * kLanes, dt);
      store(tiles.x + t * kLanes, dt * u);
      store(tiles.y + t * kLanes, D[i] * u);
      if (task.dt_sum != nullptr) {
        float* sum = task.dt_sum + (block.first_vec + i) * kLanes;
        store(sum, load(sum) + dt);
      }
    }
  }
}

template <class E>
void finish(const ScanCall& call, const ScanPiece& piece, bool decay_only, const Block& block) {
  const SelectiveScanParams<float>& p = *call.p;
  const Channels channels(p.d, block.first_vec, block.num_vecs);
  const TokenRows<const float> zs(p.z, p, piece, channels);
  const TokenRows<float> ys(p.y, p, piece, channels);
  if (!ys) return;
  for (std::int64_t t = 0; t < piece.count; ++t) {
    for (std::int64_t i = 0; i < block.num_vecs; ++i) {
      VecF y = load(block.tiles[i].y + t * kLanes) * E::kOutputScale;
      if (zs) {
        const VecF z = zs.load(t, i);
        y *= rounded(z * scan_sigmoid(z));
      }
      if (decay_only) y = rounded(y) + ys.load(t, i);
      ys.store(t, i, y, call.streams);
    }
  }
}

bool negligible(const Block& block, std::int64_t elems) {
  VecF most{};
  for (std::int64_t i = 0; i < block.num_vecs; ++i)
    for (std::int64_t k = 0; k < elems; k += kLanes) most = max(most, abs(load(block.tiles[i].h + k)));
  return reduce_max(most) <= kScanNegligible;
}

// The state before a piece, for vector v.
void enter(const ScanCall& call, const ScanPiece& piece, std::int64_t v, bool decay_only, float* h) {
  const SelectiveScanParams<float>& p = *call.p;
  const std::int64_t width = p.n * call.elems;
  const Channels channels(p.d, v, 1);
  if (piece.begins && p.state_in) {
    rows_to_tile(p.state_in.ptr(piece.slot, channels.first), p.state_in.strides[1], width, channels.count, h);
  } else if (piece.begins) {
    std::fill_n(h, width * kLanes, 0.0f);
  }
  if (piece.reset) std::fill_n(h, width * kLanes, 0.0f);
  if (piece.checkpoint < 0 || call.checkpoints == nullptr) return;
  float* checkpoint = call.checkpoints + (piece.checkpoint * call.num_vecs + v) * width * kLanes;
  for (std::int64_t k = 0; k < width * kLanes; k += kLanes)
    store_whole(checkpoint + k, decay_only ? load(checkpoint + k) + load(h + k) : load(h + k), call.streams);
}

// The state after the last piece of a sequence.
void leave(const ScanCall& call, const ScanPiece& piece, std::int64_t v, bool decay_only, float* h) {
  const SelectiveScanParams<float>& p = *call.p;
  if (!piece.ends || !p.state_out) return;
  const Channels channels(p.d, v, 1);
  float* to = p.state_out.ptr(piece.slot, channels.first);
  for (std::int64_t lane = 0; lane < channels.count; ++lane, to += p.state_out.strides[1])
    for (std::int64_t k = 0; k < p.n * call.elems; ++k) to[k] = (decay_only ? to[k] : 0) + h[k * kLanes + lane];
}

// What `prepare` and `finish` read of the next piece. (Asking for the rows of y as well gained nothing.)
Ahead rows_ahead(const ScanCall& call, const ScanPiece& piece, const Block& block) {
  const SelectiveScanParams<float>& p = *call.p;
  const Channels channels(p.d, block.first_vec, block.num_vecs);
  Ahead ahead(block.num_vecs, piece.count);
  if (piece.ends) return ahead;
  for (const View<const float, 3>* view : {&p.dt, &p.u, &p.z})
    ahead.add(TokenRows<const float>(*view, p, piece, channels), piece.count);
  return ahead;
}

template <class E, bool kPerLane>
void walk(const ScanCall& call, const ScanTask& task, const Block& block) {
  const std::int64_t elems = call.p->n * E::kElems * kLanes;  // of the state of one vector
  for (std::int64_t i = 0; i < block.num_vecs; ++i) {
    const std::int64_t v = block.first_vec + i;
    for (std::int64_t k = 0; k < elems; ++k)
      block.tiles[i].h[k] = task.start == nullptr ? 0 : task.start[v * elems + k];
    if (task.dt_sum != nullptr) std::fill_n(task.dt_sum + v * kLanes, kLanes, 0.0f);
  }
  for (const ScanPiece* piece = task.pieces; piece != task.pieces + task.num_pieces; ++piece) {
    for (std::int64_t i = 0; i < block.num_vecs; ++i)
      enter(call, *piece, block.first_vec + i, task.decay_only, block.tiles[i].h);
    if (task.decay_only && negligible(block, elems)) continue;
    prepare<E>(call, *piece, task, block);
    Ahead ahead = rows_ahead(call, *piece, block);
    for (std::int64_t i = 0; i < block.num_vecs; ++i) {
      sweep_states<E, kPerLane>(call, *piece, block, i, ahead);
      leave(call, *piece, block.first_vec + i, task.decay_only, block.tiles[i].h);
    }
    finish<E>(call, *piece, task.decay_only, block);
  }
  for (std::int64_t i = 0; task.end != nullptr && i < block.num_vecs; ++i)
    std::copy_n(block.tiles[i].h, elems, task.end + (block.first_vec + i) * elems);
}

// Rows of B or C of one token for the channels of a step.
struct StepRows {
  const float* at;      // row of the first channel's group
  std::int64_t stride;  // floats to the next group's
  std::int64_t first, per_group;

  StepRows(const View<const float, 4>& view, std::int64_t d, std::int64_t row, std::int64_t c)
      : at(view.data + row * view.strides[0]), stride(view.strides[2]), first(c), per_group(d / view.shape[2]) {
    at += c / per_group * stride;
  }
  bool shared(std::int64_t count) const { return first / per_group == (first + count - 1) / per_group; }
  const float* of(std::int64_t i) const { return at + ((first + i) / per_group - first / per_group) * stride; }
};

// Channels c to c + count for one token: states as lanes, so that rows of A, B and the state are read as they lie, then
// transposed for the sum over states in forward's order. kWhole: kLanes channels and whole vectors of states.
template <bool kWhole>
void step_vector(const SelectiveScanParams<float>& p, std::int64_t row, std::int64_t c, std::int64_t valid) {
  const std::int64_t count = kWhole ? kLanes : valid;
  const StepRows B(p.B, p.d, row, c), C(p.C, p.d, row, c);
  const bool shared_B = B.shared(count), shared_C = C.shared(count);
  const bool fresh = !p.state_in || (p.resets && p.resets(row, 0) != 0);
  const float *A_row = p.A.ptr(c), *old_row = fresh ? nullptr : p.state_in.ptr(row, c);
  float* new_row = p.state_out ? p.state_out.ptr(row, c) : nullptr;
  const VecF bias = p.dt_bias == nullptr ? VecF{} : load_lanes(p.dt_bias + c, count);
  const VecF dt = step_size(p, load_lanes(p.dt.ptr(row, 0, c), count) + bias);
  const VecF u = load_lanes(p.u.ptr(row, 0, c), count), x = dt * u;
  float dts[kLanes], xs[kLanes];
  store(dts, dt);
  store(xs, x);
  VecF y = p.D == nullptr ? VecF{} : load_lanes(p.D + c, count) * u;
  for (std::int64_t first = 0; first < p.n; first += kLanes) {
    const std::int64_t states = kWhole ? kLanes : std::min<std::int64_t>(kLanes, p.n - first);
    VecF h[kLanes];
    const Real same_B{load_lanes(B.at + first, states)};
    for (std::int64_t i = 0; i < kLanes; ++i) {
      if (!kWhole && i >= count) {
        h[i] = VecF{};
        continue;
      }
      const Real A{load_lanes(A_row + i * p.A.strides[0] + first, states) * kLog2E};
      const Real b = shared_B ? same_B : Real{load_lanes(B.of(i) + first, states)};
      const Real old{fresh ? VecF{} : load_lanes(old_row + i * p.state_in.strides[1] + first, states)};
      h[i] = Real::next(Real::decay(all_lanes(dts[i]), A), old, all_lanes(xs[i]), b).re;
      if (new_row != nullptr) store_lanes(new_row + i * p.state_out.strides[1] + first, h[i], states);
    }
    transpose<kLanes / 2>(h);
    if (shared_C) {
      for (std::int64_t j = 0; j < states; ++j) y = Real::add_output(y, Real::broadcast(C.at + first + j), {h[j]});
      y = rounded(y);  // else clang gives both loops one end, where a product and a sum that parted are not fused
      continue;
    }
    VecF rows[kLanes];
    for (std::int64_t i = 0; i < kLanes; ++i) rows[i] = i < count ? load_lanes(C.of(i) + first, states) : VecF{};
    transpose<kLanes / 2>(rows);
    for (std::int64_t j = 0; j < states; ++j) y = Real::add_output(y, {rows[j]}, {h[j]});
  }
  if (p.z) {
    const VecF z = load_lanes(p.z.ptr(row, 0, c), count);
    y *= rounded(z * scan_sigmoid(z));
  }
  store_lanes(p.y.ptr(row, 0, c), y, count);
}

}  // namespace

void scan_step_channels(const SelectiveScanParams<float>& p, std::int64_t b, std::int64_t first, std::int64_t last) {
  const bool whole = p.n % kLanes == 0;
  for (; whole && first + kLanes <= last; first += kLanes) step_vector<true>(p, b, first, kLanes);
  for (; first < last; first += kLanes) step_vector<false>(p, b, first, std::min<std::int64_t>(kLanes, last - first));
}

std::int64_t scan_lanes() {
  return kLanes;
}

void scan_to_tiles(const float* from, std::int64_t stride, std::int64_t d, std::int64_t n, std::int64_t elems,
                   float re_scale, float im_scale, float* to) {
  for (std::int64_t v = 0; v * kLanes < d; ++v, to += n * elems * kLanes) {
    const Channels channels(d, v, 1);
    rows_to_tile(from + channels.first * stride, stride, n * elems, channels.count, to);
    for (std::int64_t i = 0; i < n * elems; ++i)
      for (int lane = 0; lane < kLanes; ++lane) to[i * kLanes + lane] *= i % elems == 0 ? re_scale : im_scale;
  }
}

std::int64_t scan_forward_scratch(const ScanCall& call) {
  const std::int64_t tokens = call.piece_tokens * kLanes;
  return kScanMostBlock * (3 * tokens + call.p->n * call.elems * kLanes) + 2 * tokens * kBlockStates<Real>;
}

void scan_forward_task(const ScanCall& call, const ScanTask& task, float* scratch) {
  auto take = [&](std::int64_t count) { return std::exchange(scratch, scratch + count); };
  Block block{task.first_vec, task.num_vecs, {}};
  const std::int64_t tokens = call.piece_tokens * kLanes, gathered = tokens * kBlockStates<Real>;
  float *B = take(gathered), *C = take(gathered);
  for (std::int64_t i = 0; i < task.num_vecs; ++i)
    block.tiles[i] = {take(tokens), take(tokens), take(tokens), take(call.p->n * call.elems * kLanes), B, C};
  const bool shared = call.B.kind == ScanRows::kShared && call.C.kind == ScanRows::kShared;
  if (call.elems == 1) {
    shared ? walk<Real, false>(call, task, block) : walk<Real, true>(call, task, block);
  } else {
    shared ? walk<Complex, false>(call, task, block) : walk<Complex, true>(call, task, block);
  }
  if (call.streams) order_streams();
}

}  // namespace coluber::cpu::COLUBER_ISA
