// How the loops of selective_scan reach memory: rows of tokens, rows of B and C, and states as tiles of lanes.
#pragma once

#include <algorithm>

#include "kernels/cpu/selective_scan_isa.h"
#include "kernels/cpu/selective_scan_math.h"

namespace coluber::cpu::COLUBER_ISA {

// The channels of some vectors: `count` of them exist, lanes beyond read as 0 and are not written.
struct Channels {
  std::int64_t first, count;
  Channels(std::int64_t d, std::int64_t first_vec, std::int64_t num_vecs)
      : first(first_vec * kLanes), count(std::min<std::int64_t>(num_vecs * kLanes, d - first_vec * kLanes)) {}

  std::int64_t lanes_of(std::int64_t i) const { return std::min<std::int64_t>(kLanes, count - i * kLanes); }
  // Vector i of per-channel numbers; 0 when there are none.
  VecF load(const float* p, std::int64_t i) const {
    return p == nullptr ? VecF{} : load_lanes(p + first + i * kLanes, lanes_of(i));
  }
};

// The token at which a piece begins.
inline std::int64_t first_token(const SelectiveScanParams<float>& p, const ScanPiece& piece) {
  const SequenceRange& s = p.sequences[piece.slot];
  return p.reverse ? s.end - 1 - piece.first : s.begin + piece.first;
}

// The rows of some channels for the tokens of a piece, in processing order.
template <class T>
struct TokenRows {
  T* at = nullptr;  // null: absent
  std::int64_t step = 0;
  Channels channels;

  TokenRows(const View<T, 3>& view, const SelectiveScanParams<float>& p, const ScanPiece& piece, const Channels& c)
      : channels(c) {
    if (!view) return;
    at = view.ptr(piece.row, first_token(p, piece), c.first);
    step = p.reverse ? -view.strides[1] : view.strides[1];
  }
  explicit operator bool() const { return at != nullptr; }

  VecF load(std::int64_t t, std::int64_t i) const {
    return load_lanes(at + t * step + i * kLanes, channels.lanes_of(i));
  }
  void store(std::int64_t t, std::int64_t i, VecF v, bool streams) const {
    float* to = at + t * step + i * kLanes;
    const std::int64_t lanes = channels.lanes_of(i);
    lanes == kLanes ? store_whole(to, v, streams) : store_part(to, v, lanes);
  }
};

// Rows that will be needed, asked for during sweeps line by line in the order of addresses: a line of every row for one
// vector, then for the next, took 5 to 7% longer from memory. A core waits when it has asked for some sixteen lines at
// once, so the sweeps of a block share them evenly: at 16 states a line of each array every second token. Into L2, as a
// piece's rows and its tiles are more than L1 holds.
// One cursor for all sweeps of a block, changed in place: a copy for each sweep waits for the stores that made it.
struct Ahead {
  static constexpr int kMost = 4;
  const float* at[kMost] = {};  // the next line to ask for
  std::int64_t step[kMost] = {};
  int count = 0;
  std::int64_t lines, line = 0;     // of a row: one a vector
  std::int64_t left;                // lines of each array
  std::int64_t every = 1, due = 1;  // tokens between two lines

  Ahead(std::int64_t num_vecs, std::int64_t tokens) : lines(num_vecs), left(tokens * num_vecs) {}
  // Rows of the block from token `first` of the piece on.
  template <class T>
  void add(const TokenRows<T>& rows, std::int64_t first) {
    if (!rows) return;
    at[count] = rows.at + first * rows.step;
    step[count++] = rows.step;
  }
  // Before a sweep over `states` of n.
  void pace(std::int64_t states, std::int64_t n) {
    every = n / states;
    due = 1;
  }
  // For each token of a sweep.
  void ask() {
    if (--due != 0 || left == 0) return;
    due = every;
    --left;
    const bool ends_row = ++line == lines;
    if (ends_row) line = 0;
    for (int k = 0; k < count; ++k) {
      __builtin_prefetch(at[k], 0, 2);
      at[k] += ends_row ? step[k] - (lines - 1) * kLanes : kLanes;
    }
  }
};

// Rows of B or C for a block of states: one row of floats for all lanes, or tiles (states,e,lanes).
struct RowsOf {
  const float* at;
  std::int64_t step;  // floats to the next token
};

template <class E, bool kPerLane>
E read_row(const float* p) {
  if constexpr (kPerLane) return E::load_tile(p);
  return E::broadcast(p);
}

// Tiles (token,states,e,lanes) of rows whose lanes belong to several groups.
inline void gather_rows(const ScanCall& call, const View<const float, 4>& rows, const ScanPiece& piece, std::int64_t v,
                        std::int64_t first_state, std::int64_t states, float* to) {
  const SelectiveScanParams<float>& p = *call.p;
  const Channels channels(p.d, v, 1);
  const std::int64_t per_group = p.d / rows.shape[2], width = states * call.elems;
  const float* at = rows.ptr(piece.row, first_token(p, piece)) + first_state * call.elems;
  std::int64_t offset[kLanes];
  for (int lane = 0; lane < kLanes; ++lane)
    offset[lane] = (channels.first + std::min<std::int64_t>(lane, channels.count - 1)) / per_group * rows.strides[2];
  for (std::int64_t t = 0; t < piece.count; ++t, at += p.reverse ? -rows.strides[1] : rows.strides[1]) {
    for (std::int64_t i = 0; i < width; ++i, to += kLanes)
      for (int lane = 0; lane < kLanes; ++lane) to[lane] = at[offset[lane] + i];
  }
}

template <bool kPerLane>
RowsOf rows_of(const ScanCall& call, const ScanCoefficients& coefficients, const ScanPiece& piece, std::int64_t v,
               std::int64_t first_state, std::int64_t states, float* gathered) {
  const SelectiveScanParams<float>& p = *call.p;
  const View<const float, 4>& rows = *coefficients.rows;
  const std::int64_t tile = call.elems * kLanes;
  if constexpr (!kPerLane) {
    const std::int64_t group = v * kLanes / (p.d / rows.shape[2]);
    const std::int64_t token = first_token(p, piece);
    return {rows.ptr(piece.row, token, group) + first_state * call.elems,
            p.reverse ? -rows.strides[1] : rows.strides[1]};
  }
  if (coefficients.kind == ScanRows::kConstant) return {coefficients.tiles + (v * p.n + first_state) * tile, 0};
  gather_rows(call, rows, piece, v, first_state, states, gathered);
  return {gathered, states * tile};
}

// (d,n e) rows -> tile (n,e,lanes) and back; rows are `stride` floats apart.
inline void rows_to_tile(const float* from, std::int64_t stride, std::int64_t width, std::int64_t count, float* to) {
  std::fill_n(to, width * kLanes, 0.0f);
  for (std::int64_t lane = 0; lane < count; ++lane)
    for (std::int64_t i = 0; i < width; ++i) to[i * kLanes + lane] = from[lane * stride + i];
}
inline void tile_to_rows(const float* from, std::int64_t stride, std::int64_t width, std::int64_t count, float* to) {
  for (std::int64_t lane = 0; lane < count; ++lane)
    for (std::int64_t i = 0; i < width; ++i) to[lane * stride + i] = from[i * kLanes + lane];
}

inline VecF step_size(const SelectiveScanParams<float>& p, VecF x) {
  return p.dt_softplus ? scan_softplus(x) : x;
}

}  // namespace coluber::cpu::COLUBER_ISA
