// Rows of B and C, and sums over channels of dB and dC, in selective_scan's tiled backward
// (selective_scan_backward_tiled.cuh). An adder warp serves two scan warps: it loads rows of B and C of a chunk for the
// block, adds up what the scan warps leave of dB and dC after each quarter of a chunk, and with the other adders what
// all channels of the block give to a chunk. Helper warps do this beside their own work, or warps of their own where
// registers can move between warps. At the end: the chunks of a piece as both kinds of warps go through them.
#pragma once

#include "kernels/cuda/selective_scan_backward_helper.cuh"

namespace coluber::cuda {

template <class T, bool kEndsOnly>
class GradAdder {
 public:
  using Pair = GradPairShared<T, kEndsOnly>;

  // index: of the adder, of as many as the block has pairs of scan warps; totals: [2][adders][token][quad].
  __device__ GradAdder(const SelectiveScanParams<T, float>& p, const GradPlace& place, GradBlockShared& block,
                       Pair& pair, float4 (*totals)[kScanChunk][8], int index, int adders)
      : p_(p), place_(place), block_(block), pair_(pair), totals_(totals), index_(index), adders_(adders) {
    lane_ = threadIdx.x % 32;
    thread_ = index * 32 + lane_;
    if (thread_ >= kRowThreads) return;
    const std::int64_t token = place.token(turn_chunk(0), thread_ / 4);
    auto at = [&](const View<const T, 4>& view) {
      return view.ptr(place.q.row, token, place.channel0 / (p.d / view.shape[2]), thread_ % 4 * 4);
    };
    B_ = at(p.B);
    C_ = at(p.C);
    if (p.resets && thread_ % 4 == 0) resets_ = p.resets.ptr(place.q.row, token);
    load_rows(0);
  }

  // Rows of B and C and resets of a chunk; those of the next are asked for.
  __device__ __forceinline__ void store_rows(int turn) {
    if (thread_ >= kRowThreads) return;
    const int buffer = turn & 1, token = thread_ / 4;
    float x[4];
    widen(raw_B_, x);
    block_.B[buffer][token][thread_ % 4] = make_float4(x[0], x[1], x[2], x[3]);
    widen(raw_C_, x);
    block_.C[buffer][token][thread_ % 4] = make_float4(x[0], x[1], x[2], x[3]);
    if (thread_ % 4 == 0) reinterpret_cast<float*>(block_.forget[buffer])[token] = reset_ ? -1e30f : 0.0f;
    load_rows(turn + 1);
  }

  // Adds up dB and dC of a quarter over the channels of both warps. A lane has one quad of one token.
  __device__ __forceinline__ void add_quarter(int turn, int quarter) {
    const int slot = quarter % 2 == 0, token = lane_ / 8, quad = lane_ % 8;
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const float4 x = pair_.warps[i / 8].sums[slot][token][i % 8][quad ^ (i % 2 * 4)];
      sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
    }
    totals_[(turn & 1) * adders_ + index_][quarter * kQuarter + token][quad] = sum;
  }

  // dB and dC of a chunk, of all warps.
  __device__ __forceinline__ void leave_totals(int turn, float* slab) const {
    const int k = turn_chunk(turn);
    float4* to = reinterpret_cast<float4*>(slab + std::int64_t{k} * (kScanChunk * 2 * kGradStates));
    for (int i = thread_; i < kScanChunk * 8; i += adders_ * 32) {
      if (!place_.has(k, i / 8)) continue;
      float4 sum = make_float4(0, 0, 0, 0);
      for (int adder = 0; adder < adders_; ++adder) {
        const float4 x = totals_[(turn & 1) * adders_ + adder][i / 8][i % 8];
        sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
      }
      to[i] = sum;
    }
  }

  // All adders of the block.
  __device__ __forceinline__ void meet() const {
    asm volatile("bar.sync 1, %0;" ::"r"(adders_ * 32) : "memory");
  }

 private:
  static constexpr int kRowThreads = 64;  // load rows of B and C: 4 states of a token
  static constexpr int kStep = kEndsOnly ? 1 : -1;

  __device__ __forceinline__ int turn_chunk(int turn) const {
    return kEndsOnly ? turn : place_.count - 1 - turn;
  }
  __device__ __forceinline__ void load_rows(int turn) {
    const bool there = turn < place_.count && place_.has(turn_chunk(turn), thread_ / 4);
    raw_B_ = {};
    raw_C_ = {};
    reset_ = false;
    if (there) {
      raw_B_ = load_raw<4>(B_);
      raw_C_ = load_raw<4>(C_);
      reset_ = resets_ != nullptr && *resets_ != 0;
    }
    B_ += p_.B.strides[1] * (place_.q.sign * kStep * kScanChunk);
    C_ += p_.C.strides[1] * (place_.q.sign * kStep * kScanChunk);
    if (resets_ != nullptr) resets_ += p_.resets.strides[1] * (place_.q.sign * kStep * kScanChunk);
  }

  const SelectiveScanParams<T, float>& p_;
  const GradPlace& place_;
  GradBlockShared& block_;
  Pair& pair_;
  float4 (*totals_)[kScanChunk][8];
  int index_, adders_, lane_, thread_;
  bool reset_ = false;
  const T *B_ = nullptr, *C_ = nullptr;
  const std::uint8_t* resets_ = nullptr;
  Raw<T, 4> raw_B_{}, raw_C_{};
};

// The chunks of a piece for a helper warp; adder: its own, or null where warps of their own add up. Of the next chunk,
// the upper half takes the place of the half before this chunk, the lower one that of this chunk's upper half.
template <class T>
__device__ __forceinline__ void help_chunks(GradHelper<T, false>& helper, GradAdder<T, false>* adder,
                                            GradPairShared<T, false>& pair, int count, float* slab) {
  if (adder != nullptr) adder->store_rows(0);
  helper.begin();
#pragma unroll 1
  for (int turn = 0; turn < count; ++turn) {
    const bool more = turn + 1 < count;
    helper.ask();
    if (more) {
      if (adder != nullptr) adder->store_rows(turn + 1);
      helper.prepare_half(turn + 1, 1);
    }
#pragma unroll 1
    for (int half = 1; half >= 0; --half) {
      const int use = 2 * turn + 1 - half;
      if (adder != nullptr) {
        pair.full[0].wait(use);
        adder->add_quarter(turn, 2 * half + 1);
        pair.free[0].arrive();
      }
      pair.full[1].wait(use);
      if (adder != nullptr) {
        adder->add_quarter(turn, 2 * half);
        pair.free[1].arrive();
      }
      helper.finish(turn, half);
      pair.out_free.arrive();
      if (half == 1 && more) helper.prepare_half(turn + 1, 0);
    }
    if (adder != nullptr) {
      adder->meet();
      adder->leave_totals(turn, slab);
    }
  }
  wait_copies<0>();
}

// The same for an adder warp.
template <class T>
__device__ __forceinline__ void add_chunks(GradAdder<T, false>& adder, GradBlockShared& block,
                                           GradPairShared<T, false>& pair, int count, float* slab) {
  adder.store_rows(0);
  block.ready[0].arrive();
#pragma unroll 1
  for (int turn = 0; turn < count; ++turn) {
    if (turn + 1 < count) {
      adder.store_rows(turn + 1);
      block.ready[(turn + 1) & 1].arrive();
    }
#pragma unroll 1
    for (int half = 1; half >= 0; --half) {
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        pair.full[part].wait(2 * turn + 1 - half);
        adder.add_quarter(turn, 2 * half + 1 - part);
        pair.free[part].arrive();
      }
    }
    adder.meet();
    adder.leave_totals(turn, slab);
  }
}

// help_chunks for walk_ends.
template <class T>
__device__ __forceinline__ void help_ends(GradHelper<T, true>& helper, GradAdder<T, true>& adder,
                                          GradBlockShared& block, GradPairShared<T, true>& pair, int count, int warps) {
  adder.store_rows(0);
  helper.begin();
#pragma unroll 1
  for (int turn = 0; turn + 1 < count; ++turn) {
    helper.ask();
    if (turn > 0) {
      const int before = (turn - 1) & 1;
      pair.full[before].wait((turn - 1) >> 1);
      adder.meet();  // all warps are through with the chunk before this one
      bool all = true;
      for (int warp = 0; warp < warps; ++warp) all = all && block.decayed[before][warp] != 0;
      if (all) {
        if (threadIdx.x == warps * 32) block.stop[(turn + 1) & 1] = 1;
        block.ready[(turn + 1) & 1].arrive();
        break;
      }
    }
    adder.store_rows(turn + 1);
    helper.prepare_half(turn + 1, 1);
    helper.prepare_half(turn + 1, 0);
  }
  wait_copies<0>();
}

}  // namespace coluber::cuda
