// What the kernels of selective_scan's backward share: how the work is cut, and sums over channels of dB and dC.
//
// The kernels walk a segment of positions of all rows from its end to its begin; between segments, what flows back
// through the states waits in `carry`. Sums over channels take two stages: a block adds up its channels and leaves
// them in a slab, one more kernel adds the blocks of a group in order. Segments bound the slab's memory.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/common/dependent_launch.cuh"
#include "kernels/cuda/selective_scan_common.cuh"

namespace coluber::cuda {

// Chunks [first, end) of every row, and how channels are cut into tiles: `units` of `unit` channels lie in one group of
// B and one of C, and a tile is one block's part of a unit.
struct ScanSegment {
  std::int64_t first = 0, end = 0, chunks = 0;  // chunks: at most, of a segment
  std::int64_t unit = 0, tiles_of_unit = 0, tiles = 0;
  float* slab = nullptr;   // (tiles,b,positions,width of B + width of C), constant ones without width
  float* carry = nullptr;  // (s,d,n e)

  COLUBER_HD std::int64_t positions() const { return chunks * kScanChunk; }
};

// Sums over tokens of one sequence or piece of one, accumulated over segments.
struct ScanTokenSums {
  float* A = nullptr;                // (parts,n e + 1,d): dA, then dD
  float *B = nullptr, *C = nullptr;  // (parts,n e,d), of constant ones
  float* dt_bias = nullptr;          // (parts,d)
};

// Sums over parts; strides in numbers.
template <class T>
struct ScanCoefficientSums {
  View<T, 4> out;
  const float* from = nullptr;
  std::int64_t parts = 0, part_stride = 0, row_stride = 0, position_stride = 0, group_stride = 0, state_stride = 1;
  std::int64_t first = 0, count = 0;  // positions
  bool reverse = false;
};

// Of B and of C; positions: none where there are no sums.
template <class T>
struct ScanCoefficientPair {
  ScanCoefficientSums<T> of[2];
};

// A thread has one number of one token and group.
template <class T>
__global__ void __launch_bounds__(256)
    selective_scan_bwd_coefficients(const __grid_constant__ ScanCoefficientPair<T> pair) {
  const ScanCoefficientSums<T>& s = pair.of[blockIdx.y];
  wait_for_inputs();
  const std::int64_t rows = s.out.shape[0], groups = s.out.shape[2];
  const int width = static_cast<int>(s.out.shape[3]);
  const std::int64_t i = blockIdx.x * std::int64_t{256} + threadIdx.x;
  if (i >= rows * s.count * groups * width) return;
  const std::int64_t place = i / width;
  const int e = static_cast<int>(i - place * width);
  const std::int64_t at = place / groups, group = place - at * groups, row = at / s.count, k = at - row * s.count;
  const float* from = s.from + group * s.group_stride + row * s.row_stride + k * s.position_stride + e * s.state_stride;
  float sum = 0;
#pragma unroll 8
  for (std::int64_t part = 0; part < s.parts; ++part) sum += from[part * s.part_stride];
  const std::int64_t position = s.first + k, token = s.reverse ? s.out.shape[1] - 1 - position : position;
  s.out(row, token, group, e) = from_float<T>(sum);
}

template <class T>
void add_coefficients(const Stream& stream, const ScanCoefficientPair<T>& pair) {
  std::int64_t most = 0;
  for (const auto& s : pair.of)
    most = std::max(most, s.count == 0 ? 0 : s.out.shape[0] * s.count * s.out.shape[2] * s.out.shape[3]);
  if (most == 0) return;
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(divide_up(most, 256)), 2);
  shape.threads = 256;
  launch_dependent(selective_scan_bwd_coefficients<T>, shape, stream, pair);
}

// dB or dC of a segment from its slab, where they begin at `offset` of `width` numbers a token.
template <class T>
ScanCoefficientSums<T> slab_sums(const ScanSegment& segment, const View<T, 4>& out, std::int64_t offset,
                                 std::int64_t width, bool reverse) {
  ScanCoefficientSums<T> s;
  if (!out) return s;
  s.out = out;
  s.from = segment.slab + offset;
  s.parts = segment.tiles / out.shape[2];
  s.position_stride = width;
  s.row_stride = segment.positions() * width;
  s.part_stride = out.shape[0] * s.row_stride;
  s.group_stride = s.parts * s.part_stride;
  s.first = segment.first * kScanChunk;
  s.count = std::min(segment.end * kScanChunk, out.shape[1]) - s.first;
  s.reverse = reverse;
  return s;
}

// The gradient of constant B or C.
template <class T>
ScanCoefficientSums<T> constant_sums(const float* from, std::int64_t parts, const View<T, 4>& out) {
  ScanCoefficientSums<T> s;
  if (!out) return s;
  s.out = out;
  s.out.shape[0] = s.out.shape[1] = s.count = 1;
  s.from = from;
  s.parts = parts;
  s.group_stride = 1;
  s.state_stride = out.shape[2];
  s.part_stride = out.shape[2] * out.shape[3];
  return s;
}

}  // namespace coluber::cuda
