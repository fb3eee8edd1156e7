// Rows of a matrix of weights on their way from memory to tensor cores, for products y = x W^T of a few rows of x.
//
// What bounds such a product is reading W once, so what counts is how many bytes are under way at any time, from before
// the kernel's input is there until the last row. Every warp has places of its own in shared memory that its copies go
// to, kStages deep: no warp waits for another, and W takes registers only where it is multiplied.
//
// A block of kStreamWarps warps has kTiles x 8 rows of W a turn; warp w multiplies inputs [64 (w + 8 i), 64 (w + 8 i +
// 1)) for i = 0, 1, ..., and the warps' sums are added in order. So the sum of an output is the same for any number of
// rows of x, of tiles and of blocks.
#pragma once

#include <cstdint>

#include "kernels/cuda/common/async_copy.cuh"
#include "kernels/cuda/common/mma.cuh"
#include "kernels/matmul.h"

namespace coluber::cuda {

constexpr int kStreamWarps = 8, kStreamThreads = kStreamWarps * 32;
constexpr int kBlockInputs = 64;                           // of a warp in a round: 128 bytes of a row
constexpr int kRoundInputs = kStreamWarps * kBlockInputs;  // of a block of threads

// Those of a block of threads, each of a stream's kRows rows of W.
struct Turns {
  int first = 0, end = 0, stride = 1;
  __device__ int count() const { return (end - first + stride - 1) / stride; }
};

// Of a ring of `stages`, one a round, those that are ever used.
__host__ __device__ inline int used_stages(int stages, std::int64_t inputs, std::int64_t turns) {
  const std::int64_t rounds = (inputs + kRoundInputs - 1) / kRoundInputs * turns;
  return rounds < stages ? static_cast<int>(rounds) : stages;
}

// Whole lines of 8 rows: 8 lanes a row and copy, so a warp reads what its other lanes have copied. The ring has
// `stages`, kStages or kFewer.
template <class T, int kTiles, int kStages, int kFewer>
class WeightStream {
 public:
  static constexpr int kRows = 8 * kTiles;

  // W's rows begin at multiples of 16 bytes and have multiples of 8 numbers. `ring`: 1 KiB a tile and warp in each of
  // the used_stages.
  __device__ __forceinline__ WeightStream(const Matrix& weight, const Turns& turns, int stages, void* ring)
      : weight_(static_cast<const T*>(weight.data)),
        ld_(weight.ld),
        last_(weight.rows - 1),
        k_(static_cast<int>(weight.columns)),
        turn_(turns.first),
        end_(turns.end),
        stride_(turns.stride),
        stages_(stages),
        ring_(shared_address(ring) +
              threadIdx.x / 32 * used_stages(stages, weight.columns, turns.count()) * kTiles * 1024) {
    const int lane = threadIdx.x % 32, row = lane / 8, chunk = lane % 8, g = lane / 4, t = lane % 4;
    row_ = row;
    first_ = static_cast<int>(threadIdx.x) / 32 * kBlockInputs + chunk * 8;
    to_ = row * 128 + (chunk ^ (row % 2 * 4)) * 16;
    from_ = g * 128 + (t ^ (g % 2 * 4)) * 16;  // the other half: 64 bytes further, or before
    at_ = first_;
    find_rows();
#pragma unroll
    for (int s = 0; s < kStages; ++s) {
      if (s < stages) ask();
    }
  }

  // Multiplies the next 64 inputs of this warp: use(tile, weights) with 2 x 16 bytes of row g of each tile.
  template <class F>
  __device__ __forceinline__ void take(F&& use) {
    if (stages_ == kStages)
      wait_copies<kStages - 1>();
    else
      wait_copies<kFewer - 1>();
    __syncwarp();
    const int other = threadIdx.x % 8 < 4 ? 64 : -64;
    const unsigned from = ring_ + stage_ * kTiles * 1024 + from_;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      use(n, load_shared(from + n * 1024), load_shared(from + n * 1024 + other));
    }
    __syncwarp();
    ask();
  }

 private:
  __device__ __forceinline__ void find_rows() {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const std::int64_t row = std::int64_t{turn_} * kRows + n * 8 + row_;
      rows_[n] = weight_ + min(row, last_) * ld_;
      further_[n] = (min(row + 4, last_) - min(row, last_)) * ld_;
    }
  }

  __device__ __forceinline__ void ask() {
    if (turn_ < end_) {
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        const unsigned to = ring_ + (stage_ * kTiles + n) * 1024 + to_;
        copy_16_bytes(to, rows_[n] + at_, at_ < k_);
        copy_16_bytes(to + 512, rows_[n] + further_[n] + at_, at_ < k_);
      }
      at_ += kRoundInputs;
      if (at_ - first_ >= k_) {  // for all warps together
        at_ = first_;
        turn_ += stride_;
        find_rows();
      }
    }
    commit_copies();
    stage_ = stage_ + 1 == stages_ ? 0 : stage_ + 1;
  }

  const T* weight_;
  std::int64_t ld_, last_;
  int k_, turn_, end_, stride_, stages_, row_, first_, at_;
  unsigned ring_, to_, from_;
  int stage_ = 0;
  const T* rows_[kTiles];
  std::int64_t further_[kTiles];
};

}  // namespace coluber::cuda
