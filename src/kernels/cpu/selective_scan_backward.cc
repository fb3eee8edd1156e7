// Backward of selective_scan for one instruction set (selective_scan_isa.h).
//
// The adjoint of the state, s_t = dL/dh_t, runs from the last token to the first:
//   s_t = s_{t+1} conj(a_{t+1}) + k g_t conj(C_t),   g_t = dL/dy_t before the gate, k = 1, or 2 when complex
// and every gradient is local in it (docs/math.md). A piece of a block of vectors, for some states at a time: decays
// and states are computed again from the checkpoint and kept in L1, then one sweep back uses each once. Per state and
// vector: 17 multiply-adds (states again 8, output for the gradient of z 1, sweep 8).
#include "kernels/cpu/selective_scan_rows.h"

namespace coluber::cpu::COLUBER_ISA {
namespace {

template <class E>
constexpr int kBlockStates = (kLanes == 16 ? 8 : 4) / E::kElems;

// Of one vector of channels, (token,lanes).
struct Tiles {
  float *dt, *x, *g;              // step size, dt u, gradient of y before the gate times kOutputScale
  float *sB, *sA, *y;             // sums over states: Re(s conj(B)), Re(s conj(a h A)), output
  float *u, *dt_slope, *z_slope;  // for the end: slope of softplus; gradient of z over y
};
constexpr std::int64_t kTilesOfVector = 9;
// A load that agrees with a store before it in the lowest 12 bits of the address waits for it: arrays of the same size
// must not lie a multiple of 4 KiB apart. 320 bytes are 5 lines.
constexpr std::int64_t kSkew = 80;
constexpr std::int64_t kStateTiles = kBlockStates<Real> * kLanes;  // floats per token of a block of states

struct Block {
  std::int64_t first_vec, num_vecs;
  Tiles tiles[kScanMostBlock];
  float *decay, *state;          // (token,states,e,lanes), (token + 1,states,e,lanes)
  float *grad_B, *grad_C;        // (token,states,e,lanes): sums over the vectors
  float* zeros;                  // (states,e,lanes)
  float *B, *C;                  // gathered rows
  float *sum_A, *sum_B, *sum_C;  // (v of the block,n,e,lanes): sums over the window
  float *sum_D, *sum_dt_bias;    // (v of the block,lanes)
};

// Where a sweep adds gradients of B or C: floats to the next token, 0 when constant. The first vector of a block finds
// zeros where the others find the sum so far.
struct GradRowsOf {
  float* at;
  std::int64_t step;
  const float* before;
  std::int64_t before_step;
};

// to = sum + x conj(value).
template <class E>
void add_conj_to_tile(float* to, const float* sum, VecF x, E value) {
  E::add_scaled_conj(E::load_tile(sum), x, value).store_tile(to);
}

// Decays and states of all tokens, from the state h before them, and what needs the states in order: y when kOutput,
// and gradients of C.
template <class E, int kStates, bool kPerLane, bool kOutput>
void recompute(const Tiles& tiles, std::int64_t count, const float* A, RowsOf B, RowsOf C, const float* h, Ahead& ahead,
               float* decays, float* states, const GradRowsOf& grad_C) {
  constexpr int kTile = E::kElems * kLanes;
  constexpr int kNext = kPerLane ? kTile : E::kElems;
  E rate[kStates], state[kStates];
#pragma GCC unroll 8
  for (int j = 0; j < kStates; ++j) {
    rate[j] = E::load_tile(A + j * kTile);
    state[j] = h == nullptr ? E::zero() : E::load_tile(h + j * kTile);
    state[j].store_tile(states + j * kTile);
  }
  for (std::int64_t t = 0; t < count; ++t) {
    const VecF dt = load(tiles.dt + t * kLanes), x = load(tiles.x + t * kLanes), g = load(tiles.g + t * kLanes);
    const float *b = B.at + t * B.step, *c = C.at + t * C.step;
    float *decay_row = decays + t * kStates * kTile, *state_row = states + (t + 1) * kStates * kTile;
    float* grad_c = grad_C.at + t * grad_C.step;
    const float* grad_c_before = grad_C.before + t * grad_C.before_step;
    ahead.ask();
    VecF y{};
    if constexpr (kOutput) y = load(tiles.y + t * kLanes);
#pragma GCC unroll 8
    for (int j = 0; j < kStates; ++j) {
      const E decay = E::decay(dt, rate[j]);
      state[j] = E::next(decay, state[j], x, read_row<E, kPerLane>(b + j * kNext));
      decay.store_tile(decay_row + j * kTile);
      state[j].store_tile(state_row + j * kTile);
      add_conj_to_tile(grad_c + j * kTile, grad_c_before + j * kTile, g, state[j]);
      if constexpr (kOutput) y = E::add_output(y, read_row<E, kPerLane>(c + j * kNext), state[j]);
    }
    if constexpr (kOutput) store(tiles.y + t * kLanes, y);
  }
}

template <class E, int kStates, bool kPerLane>
void sweep_back(const Tiles& tiles, std::int64_t count, const float* plain_A, RowsOf B, RowsOf C, const float* decays,
                const float* states, const GradRowsOf& grad_B, Ahead& ahead, float* adjoints, float* sum_A) {
  constexpr int kTile = E::kElems * kLanes;
  constexpr int kNext = kPerLane ? kTile : E::kElems;
  E adjoint[kStates], grad_A[kStates];
#pragma GCC unroll 8
  for (int j = 0; j < kStates; ++j) {
    adjoint[j] = E::load_tile(adjoints + j * kTile);
    grad_A[j] = E::load_tile(sum_A + j * kTile);
  }
  for (std::int64_t t = count - 1; t >= 0; --t) {
    const VecF dt = load(tiles.dt + t * kLanes), x = load(tiles.x + t * kLanes), g = load(tiles.g + t * kLanes);
    const float *b = B.at + t * B.step, *c = C.at + t * C.step;
    const float *decay_row = decays + t * kStates * kTile, *state_row = states + t * kStates * kTile;
    float* grad_b = grad_B.at + t * grad_B.step;
    const float* grad_b_before = grad_B.before + t * grad_B.before_step;
    ahead.ask();
    // Two sums each: a chain of one multiply-add after the other would take as long as all the rest.
    VecF sB[2] = {load(tiles.sB + t * kLanes), VecF{}}, sA[2] = {load(tiles.sA + t * kLanes), VecF{}};
#pragma GCC unroll 8
    for (int j = 0; j < kStates; ++j) {
      adjoint[j] = E::add_scaled_conj(adjoint[j], g, read_row<E, kPerLane>(c + j * kNext));
      E::add_scaled(E::load_tile(grad_b_before + j * kTile), x, adjoint[j]).store_tile(grad_b + j * kTile);
      sB[j % 2] = E::add_real_of_times_conj(sB[j % 2], adjoint[j], read_row<E, kPerLane>(b + j * kNext));
      adjoint[j] = E::times_conj(adjoint[j], E::load_tile(decay_row + j * kTile));
      const E local = E::times_conj(adjoint[j], E::load_tile(state_row + j * kTile));
      grad_A[j] = E::add_scaled(grad_A[j], dt, local);
      sA[j % 2] = E::add_real_of_times_conj(sA[j % 2], local, E::load_tile(plain_A + j * kTile));
    }
    store(tiles.sB + t * kLanes, sB[0] + sB[1]);
    store(tiles.sA + t * kLanes, sA[0] + sA[1]);
  }
#pragma GCC unroll 8
  for (int j = 0; j < kStates; ++j) {
    adjoint[j].store_tile(adjoints + j * kTile);
    grad_A[j].store_tile(sum_A + j * kTile);
  }
}

// The adjoint alone, for strands that begin inside a sequence.
template <class E, int kStates, bool kPerLane>
void sweep_adjoint(const Tiles& tiles, std::int64_t count, const float* A, RowsOf C, float* adjoints) {
  constexpr int kTile = E::kElems * kLanes;
  constexpr int kNext = kPerLane ? kTile : E::kElems;
  for (int j = 0; j < kStates; ++j) {
    const E rate = E::load_tile(A + j * kTile);
    E adjoint = E::load_tile(adjoints + j * kTile);
    for (std::int64_t t = count - 1; t >= 0; --t) {
      const VecF dt = load(tiles.dt + t * kLanes), g = load(tiles.g + t * kLanes);
      adjoint = E::add_scaled_conj(adjoint, g, read_row<E, kPerLane>(C.at + t * C.step + j * kNext));
      adjoint = E::times_conj(adjoint, E::decay(dt, rate));
    }
    adjoint.store_tile(adjoints + j * kTile);
  }
}

template <class E>
void prepare(const ScanCall& call, const SelectiveScanGradParams<float>& grads, const ScanPiece& piece,
             const ScanGradTask& task, const Block& block) {
  const SelectiveScanParams<float>& p = *call.p;
  const Channels channels(p.d, block.first_vec, block.num_vecs);
  const TokenRows<const float> dts(p.dt, p, piece, channels), us(p.u, p, piece, channels), zs(p.z, p, piece, channels),
      gs(grads.grad_y, p, piece, channels);
  VecF D[kScanMostBlock], bias[kScanMostBlock];
  for (std::int64_t i = 0; i < block.num_vecs; ++i) {
    D[i] = channels.load(p.D, i) * (1 / E::kOutputScale);
    bias[i] = channels.load(p.dt_bias, i);
  }
  for (std::int64_t t = 0; t < piece.count; ++t) {
    for (std::int64_t i = 0; i < block.num_vecs; ++i) {
      const Tiles& tiles = block.tiles[i];
      const VecF raw = dts.load(t, i) + bias[i], u = us.load(t, i);
      const Softplus dt = p.dt_softplus ? scan_softplus_slope(raw) : Softplus{raw, splat(1.0f)};
      VecF g = gs.load(t, i);
      if (zs) {
        const VecF z = zs.load(t, i), gate = scan_sigmoid(z);
        store(tiles.z_slope + t * kLanes, g * gate * (1.0f + z * (1.0f - gate)) * E::kOutputScale);
        g *= z * gate;
      }
      store(tiles.dt + t * kLanes, dt.value);
      store(tiles.dt_slope + t * kLanes, dt.slope);
      store(tiles.u + t * kLanes, u);
      store(tiles.x + t * kLanes, dt.value * u);
      store(tiles.y + t * kLanes, D[i] * u);
      store(tiles.g + t * kLanes, g * E::kOutputScale);
      store(tiles.sA + t * kLanes, VecF{});
      store(tiles.sB + t * kLanes, VecF{});
      if (task.dt_sum != nullptr) {
        float* sum = task.dt_sum + (block.first_vec + i) * kLanes;
        store(sum, load(sum) + dt.value);
      }
    }
  }
}

template <class E>
void finish(const ScanCall& call, const SelectiveScanGradParams<float>& grads, const ScanPiece& piece,
            const Block& block) {
  const SelectiveScanParams<float>& p = *call.p;
  const Channels channels(p.d, block.first_vec, block.num_vecs);
  const TokenRows<float> us(grads.grad_u, p, piece, channels), dts(grads.grad_dt, p, piece, channels),
      zs(grads.grad_z, p, piece, channels);
  VecF D[kScanMostBlock];
  for (std::int64_t i = 0; i < block.num_vecs; ++i) D[i] = channels.load(p.D, i);
  for (std::int64_t t = 0; t < piece.count; ++t) {
    for (std::int64_t i = 0; i < block.num_vecs; ++i) {
      const Tiles& tiles = block.tiles[i];
      const VecF dt = load(tiles.dt + t * kLanes), u = load(tiles.u + t * kLanes);
      const VecF g = load(tiles.g + t * kLanes) * (1 / E::kOutputScale), sB = load(tiles.sB + t * kLanes);
      const VecF grad_dt = (u * sB + load(tiles.sA + t * kLanes)) * load(tiles.dt_slope + t * kLanes);
      us.store(t, i, dt * sB + D[i] * g, call.streams);
      dts.store(t, i, grad_dt, call.streams);
      if (zs) zs.store(t, i, load(tiles.z_slope + t * kLanes) * load(tiles.y + t * kLanes), call.streams);
      store(block.sum_D + i * kLanes, load(block.sum_D + i * kLanes) + g * u);
      store(block.sum_dt_bias + i * kLanes, load(block.sum_dt_bias + i * kLanes) + grad_dt);
    }
  }
}

// (token,kWidth,lanes) -> rows of kWidth floats, `row` floats apart: sums over all lanes.
template <int kWidth>
void sum_over_lanes(const float* tiles, std::int64_t count, float* to, std::int64_t row) {
  static_assert(kLanes % kWidth == 0);
  constexpr int kAtOnce = kLanes / kWidth;  // tokens whose sums fill a vector
  for (std::int64_t t = 0; t < count; t += kAtOnce, tiles += kLanes * kLanes) {
    const int tokens = static_cast<int>(std::min<std::int64_t>(kAtOnce, count - t));
    VecF rows[kLanes];
#pragma GCC unroll 16
    for (int j = 0; j < kLanes; ++j) rows[j] = load(tiles + j * kLanes);  // those of tokens beyond are not used
    float sums[kLanes];
    store(sums, sum_rows(rows));
    for (int i = 0; i < tokens; ++i) std::copy_n(sums + i * kWidth, kWidth, to + (t + i) * row);
  }
}

// The same for vector v whose lanes belong to several groups: a row per group.
void sum_over_groups(const ScanCall& call, std::int64_t per_group, std::int64_t groups, std::int64_t v,
                     const float* tiles, std::int64_t count, std::int64_t width, float* to, std::int64_t row) {
  const Channels channels(call.p->d, v, 1);
  const std::int64_t first_group = channels.first / per_group;
  for (std::int64_t t = 0; t < count; ++t) {
    for (std::int64_t i = 0; i < width; ++i, tiles += kLanes) {
      for (std::int64_t group = 0; group < groups; ++group) to[(t * groups + group) * row + i] = 0;
      for (std::int64_t lane = 0; lane < channels.count; ++lane)
        to[(t * groups + (channels.first + lane) / per_group - first_group) * row + i] += tiles[lane];
    }
  }
}

// What `prepare` reads of the piece before, and what `finish` writes through the caches.
Ahead rows_read(const ScanCall& call, const SelectiveScanGradParams<float>& g, const ScanPiece& piece,
                const Block& block) {
  const SelectiveScanParams<float>& p = *call.p;
  const Channels channels(p.d, block.first_vec, block.num_vecs);
  Ahead ahead(block.num_vecs, call.piece_tokens);
  for (const View<const float, 3>* view : {&p.dt, &p.u, &p.z, &g.grad_y}) {
    if (!piece.begins) ahead.add(TokenRows<const float>(*view, p, piece, channels), -call.piece_tokens);
  }
  return ahead;
}
Ahead rows_written(const ScanCall& call, const SelectiveScanGradParams<float>& g, const ScanPiece& piece,
                   const Block& block) {
  const SelectiveScanParams<float>& p = *call.p;
  const Channels channels(p.d, block.first_vec, block.num_vecs);
  Ahead ahead(block.num_vecs, piece.count);
  if (call.streams) return ahead;
  for (const View<float, 3>* view : {&g.grad_dt, &g.grad_u, &g.grad_z})
    ahead.add(TokenRows<float>(*view, p, piece, channels), 0);
  return ahead;
}

void ask_for(const float* p, std::int64_t count) {
  for (std::int64_t k = 0; k < count; k += 16) __builtin_prefetch(p + k, 0, 2);
}

// Everything of a piece that goes through the states of one block of vectors.
template <class E, bool kPerLane>
void sweep_states(const ScanCall& call, const SelectiveScanGradParams<float>& g, const ScanPiece& piece,
                  const ScanGradTask& task, const Block& block, std::int64_t window_token) {
  constexpr int kTile = E::kElems * kLanes;
  const std::int64_t n = call.p->n, row = n * E::kElems;
  const bool gate = static_cast<bool>(call.p->z);
  Ahead read = rows_read(call, g, piece, block), written = rows_written(call, g, piece, block);
  for_state_blocks<kBlockStates<E>>(n, [&](auto number, std::int64_t first) {
    constexpr int kStates = decltype(number)::value;
    for (std::int64_t i = 0; i < block.num_vecs; ++i) {
      const std::int64_t v = block.first_vec + i, at = v * n + first, in_block = i * n + first;
      auto rows = [&](const ScanCoefficients& c, float* per_token, float* sum) -> GradRowsOf {
        if (c.kind == ScanRows::kConstant) return {sum + in_block * kTile, 0, sum + in_block * kTile, 0};
        constexpr std::int64_t kStep = kStates * kTile;
        if (kPerLane || i == 0) return {per_token, kStep, block.zeros, 0};
        return {per_token, kStep, per_token, kStep};
      };
      const GradRowsOf grad_B = rows(call.B, block.grad_B, block.sum_B);
      const GradRowsOf grad_C = rows(call.C, block.grad_C, block.sum_C);
      const RowsOf B = rows_of<kPerLane>(call, call.B, piece, v, first, kStates, block.B);
      const RowsOf C = rows_of<kPerLane>(call, call.C, piece, v, first, kStates, block.C);
      read.pace(kStates, n);
      written.pace(kStates, n);
      const float* h = nullptr;
      if (!piece.reset && piece.checkpoint >= 0) {
        h = call.checkpoints + ((piece.checkpoint * call.num_vecs + v) * n + first) * kTile;
        if (!piece.begins) ask_for(h - call.num_vecs * n * kTile, kStates * kTile);  // of the piece that is next
      }
      const Tiles& tiles = block.tiles[i];
      (gate ? recompute<E, kStates, kPerLane, true>
            : recompute<E, kStates, kPerLane, false>)(tiles, piece.count, call.A + at * kTile, B, C, h, read,
                                                      block.decay, block.state, grad_C);
      sweep_back<E, kStates, kPerLane>(tiles, piece.count, call.plain_A + at * kTile, B, C, block.decay, block.state,
                                       grad_B, written, task.adjoint + at * kTile, block.sum_A + in_block * kTile);
      if (piece.reset) std::fill_n(task.adjoint + at * kTile, kStates * kTile, 0.0f);
      if constexpr (kPerLane) {
        auto sum = [&](const ScanCoefficients& c, const ScanGradRows& to, const float* from) {
          if (c.kind == ScanRows::kConstant) return;
          sum_over_groups(call, call.p->d / c.rows->shape[2], to.groups, v, from, piece.count, kStates * E::kElems,
                          to.at + i * to.vec_stride + window_token * to.groups * row + first * E::kElems, row);
        };
        sum(call.B, task.B, block.grad_B);
        sum(call.C, task.C, block.grad_C);
      }
    }
    if constexpr (!kPerLane) {
      const std::int64_t to = window_token * row + first * E::kElems;
      sum_over_lanes<kStates * E::kElems>(block.grad_B, piece.count, task.B.at + to, row);
      sum_over_lanes<kStates * E::kElems>(block.grad_C, piece.count, task.C.at + to, row);
    }
  });
}

template <class E, bool kPerLane>
void sweep_adjoints(const ScanCall& call, const ScanPiece& piece, const ScanGradTask& task, const Block& block) {
  constexpr int kTile = E::kElems * kLanes;
  const std::int64_t n = call.p->n;
  for (std::int64_t i = 0; i < block.num_vecs; ++i) {
    const std::int64_t v = block.first_vec + i;
    for_state_blocks<kBlockStates<E>>(n, [&](auto number, std::int64_t first) {
      constexpr int kStates = decltype(number)::value;
      const RowsOf C = rows_of<kPerLane>(call, call.C, piece, v, first, kStates, block.C);
      sweep_adjoint<E, kStates, kPerLane>(block.tiles[i], piece.count, call.A + (v * n + first) * kTile, C,
                                          task.adjoint + (v * n + first) * kTile);
    });
    if (piece.reset) std::fill_n(task.adjoint + v * n * kTile, n * kTile, 0.0f);
  }
}

void add_to_sums(double* to, const float* from, std::int64_t count) {
  for (std::int64_t k = 0; to != nullptr && k < count; ++k) to[k] += static_cast<double>(from[k]);
}

template <class E, bool kPerLane>
void walk_back(const ScanCall& call, const SelectiveScanGradParams<float>& g, const ScanGradTask& task,
               const Block& block) {
  const SelectiveScanParams<float>& p = *call.p;
  const std::int64_t width = p.n * E::kElems, elems = width * kLanes, total = block.num_vecs * elems;
  for (float* sum : {block.sum_A, block.sum_B, block.sum_C}) std::fill_n(sum, total, 0.0f);
  for (float* sum : {block.sum_D, block.sum_dt_bias}) std::fill_n(sum, block.num_vecs * kLanes, 0.0f);
  for (std::int64_t k = task.num_pieces - 1; k >= 0; --k) {
    const ScanPiece& piece = task.pieces[k];
    for (std::int64_t i = 0; piece.ends && i < block.num_vecs; ++i) {
      const Channels channels(p.d, block.first_vec + i, 1);
      float* adjoint = task.adjoint + (block.first_vec + i) * elems;
      if (g.grad_state_out) {
        rows_to_tile(g.grad_state_out.ptr(piece.slot, channels.first), g.grad_state_out.strides[1], width,
                     channels.count, adjoint);
      } else {
        std::fill_n(adjoint, elems, 0.0f);
      }
    }
    prepare<E>(call, g, piece, task, block);
    if (task.adjoint_only) {
      sweep_adjoints<E, kPerLane>(call, piece, task, block);
      continue;
    }
    sweep_states<E, kPerLane>(call, g, piece, task, block, k * call.piece_tokens);
    finish<E>(call, g, piece, block);
    for (std::int64_t i = 0; piece.begins && g.grad_state_in && i < block.num_vecs; ++i) {
      const Channels channels(p.d, block.first_vec + i, 1);
      tile_to_rows(task.adjoint + (block.first_vec + i) * elems, g.grad_state_in.strides[1], width, channels.count,
                   g.grad_state_in.ptr(piece.slot, channels.first));
    }
  }
  if (task.adjoint_only) return;
  auto tiles_of = [&](double* sums) { return sums == nullptr ? nullptr : sums + block.first_vec * elems; };
  auto lanes_of = [&](double* sums) { return sums == nullptr ? nullptr : sums + block.first_vec * kLanes; };
  add_to_sums(tiles_of(task.sums.A), block.sum_A, total);
  add_to_sums(tiles_of(task.sums.B), block.sum_B, total);
  add_to_sums(tiles_of(task.sums.C), block.sum_C, total);
  add_to_sums(lanes_of(task.sums.D), block.sum_D, block.num_vecs * kLanes);
  add_to_sums(lanes_of(task.sums.dt_bias), block.sum_dt_bias, block.num_vecs * kLanes);
}

template <class E>
void join(const ScanCall& call, const float* dt_sum, const float* before, bool adjoint, float* after) {
  constexpr int kTile = E::kElems * kLanes;
  for (std::int64_t v = 0; v < call.num_vecs; ++v) {
    const VecF dt = load(dt_sum + v * kLanes);
    for (std::int64_t k = v * call.p->n; k < (v + 1) * call.p->n; ++k) {
      const E decay = E::decay(dt, E::load_tile(call.A + k * kTile)), from = E::load_tile(before + k * kTile);
      const E to = E::load_tile(after + k * kTile);
      const E carried = adjoint ? E::times_conj(from, decay) : E::times(from, decay);
      E::add_scaled(to, splat(1.0f), carried).store_tile(after + k * kTile);
    }
  }
}

}  // namespace

std::int64_t scan_backward_scratch(const ScanCall& call) {
  const std::int64_t states = 3 * call.p->n * call.elems * kLanes, lanes = call.piece_tokens * kLanes;
  const std::int64_t tokens = call.piece_tokens * kStateTiles;
  return kScanMostBlock * (kTilesOfVector * (lanes + kSkew) + states + 2 * kLanes) + 6 * tokens + 2 * kStateTiles +
         12 * kSkew;
}

void scan_backward_task(const ScanCall& call, const SelectiveScanGradParams<float>& g, const ScanGradTask& task,
                        float* scratch) {
  auto take = [&](std::int64_t count) { return std::exchange(scratch, scratch + count + kSkew); };
  const std::int64_t states = kScanMostBlock * call.p->n * call.elems * kLanes, lanes = call.piece_tokens * kLanes;
  const std::int64_t tokens = call.piece_tokens * kStateTiles;
  Block block{};
  block.first_vec = task.first_vec;
  block.num_vecs = task.num_vecs;
  for (std::int64_t i = 0; i < task.num_vecs; ++i) {
    block.tiles[i] = {take(lanes), take(lanes), take(lanes), take(lanes), take(lanes),
                      take(lanes), take(lanes), take(lanes), take(lanes)};
  }
  block.decay = take(tokens);
  block.state = take(tokens + kStateTiles);
  block.grad_B = take(tokens);
  block.grad_C = take(tokens);
  block.zeros = take(kStateTiles);
  std::fill_n(block.zeros, kStateTiles, 0.0f);
  block.B = take(tokens);
  block.C = take(tokens);
  block.sum_A = take(states);
  block.sum_B = take(states);
  block.sum_C = take(states);
  block.sum_D = take(kScanMostBlock * kLanes);
  block.sum_dt_bias = take(kScanMostBlock * kLanes);
  const bool shared = call.B.kind == ScanRows::kShared && call.C.kind == ScanRows::kShared;
  if (call.elems == 1) {
    shared ? walk_back<Real, false>(call, g, task, block) : walk_back<Real, true>(call, g, task, block);
  } else {
    shared ? walk_back<Complex, false>(call, g, task, block) : walk_back<Complex, true>(call, g, task, block);
  }
  if (call.streams) order_streams();
}

void scan_join(const ScanCall& call, const float* dt_sum, const float* before, bool adjoint, float* after) {
  call.elems == 1 ? join<Real>(call, dt_sum, before, adjoint, after)
                  : join<Complex>(call, dt_sum, before, adjoint, after);
}

}  // namespace coluber::cpu::COLUBER_ISA
