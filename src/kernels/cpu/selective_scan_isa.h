// What selective_scan_dispatch.cc prepares for the loops of selective_scan_forward.cc and selective_scan_backward.cc.
//
// Channels are lanes: vector v holds channels v kLanes to v kLanes + kLanes - 1, those beyond d are 0 and stay 0.
// States are kept as tiles (n, elems, lanes) per vector, elems = 2 (re, im) when A is complex, so the recurrence needs
// no shuffle. A task walks a strand: pieces of sequences of at most piece_tokens tokens, one after the other, for one
// block of vectors.
#pragma once

#include <cstdint>

#include "kernels/cpu/isa.h"
#include "kernels/selective_scan.h"

namespace coluber::cpu {

// Tokens of a piece at most. Forward: 64 tokens of dt, dt u and y of one vector are 12 KiB of the 32 KiB L1.
inline constexpr std::int64_t kScanMostPiece = 64;
// Vectors of a block at most: 8 x 64 bytes are read from each token's row.
inline constexpr std::int64_t kScanMostBlock = 8;

// A state that came in from before a strand and has decayed below this is dropped: 1e-30 is far below what a float sum
// of this op's inputs can hold beside anything above 1e-22.
inline constexpr float kScanNegligible = 1e-30f;

// Steps [first, first + count) of a sequence, in processing order; within a piece only the first token may be reset.
struct ScanPiece {
  std::int64_t slot = 0, row = 0, first = 0, count = 0;
  std::int64_t checkpoint = -1;                      // index of the stored state at its start, -1: none
  bool begins = false, ends = false, reset = false;  // begins, ends: first or last piece of its sequence
};

// How B or C reaches a vector of channels.
enum class ScanRows : std::uint8_t {
  kShared,    // one row of n for all lanes, broadcast
  kConstant,  // a tile (n, elems, lanes) that no token changes
  kGathered,  // lanes of several groups: tiles are put together as needed
};

struct ScanCoefficients {
  ScanRows kind = ScanRows::kShared;
  const View<const float, 4>* rows = nullptr;  // (b,l,g,n e)
  const float* tiles = nullptr;                // (v,n,e,lanes) when constant
};

struct ScanCall {
  const SelectiveScanParams<float>* p = nullptr;
  std::int64_t elems = 1;  // per state: 2 when complex
  std::int64_t piece_tokens = kScanMostPiece;
  const float* A = nullptr;  // (v,n,e,lanes): re times log2(e), im over 2 pi, so that exp2 and turns are all it takes
  const float* plain_A = nullptr;  // backward: A itself, likewise
  ScanCoefficients B, C;
  float* checkpoints = nullptr;  // (border,v,n,e,lanes), may be null in forward
  std::int64_t num_vecs = 0;
  bool streams = false;  // outputs (b,l,d) and, in forward, checkpoints are stored past the caches
};

// One strand of one block of vectors.
struct ScanTask {
  const ScanPiece* pieces = nullptr;
  std::int64_t num_pieces = 0;
  std::int64_t first_vec = 0, num_vecs = 0;
  const float* start =
      nullptr;              // (v,n,e,lanes) of all vectors: state before the first piece when that begins no sequence
  float* end = nullptr;     // likewise, null or gets the state after the last piece
  float* dt_sum = nullptr;  // (v,lanes), null or gets the sum of dt over the strand
  bool decay_only = false;  // forward: adds to y and checkpoints what `start` alone contributes
};

// Sums over the tokens of a strand, (v,n,e,lanes) or (v,lanes); null: not wanted.
struct ScanGradSums {
  double *A = nullptr, *B = nullptr, *C = nullptr;  // B, C: only when constant
  double *D = nullptr, *dt_bias = nullptr;
};

// Sums over channels, (token of the window, group, n e): shared rows get one sum over all vectors of a task, gathered
// ones a sum for each vector and each of the `groups` groups that it touches, vectors `vec_stride` floats apart.
struct ScanGradRows {
  float* at = nullptr;
  std::int64_t groups = 1, vec_stride = 0;
};

// One block of vectors for a window of a strand, from the last piece to the first.
struct ScanGradTask {
  const ScanPiece* pieces = nullptr;
  std::int64_t num_pieces = 0;
  std::int64_t first_vec = 0, num_vecs = 0;
  float* adjoint = nullptr;  // (v,n,e,lanes): gradient of the state after the last piece in, before the first one out
  float* dt_sum = nullptr;   // (v,lanes), only with adjoint_only
  bool adjoint_only = false;
  ScanGradSums sums;
  ScanGradRows B, C;  // unless constant
};

COLUBER_DECLARE_PER_ISA(std::int64_t, scan_lanes, ())
// (d,n e), rows `stride` floats apart, -> (v,n,e,lanes), times re_scale and im_scale.
COLUBER_DECLARE_PER_ISA(void, scan_to_tiles,
                        (const float* from, std::int64_t stride, std::int64_t d, std::int64_t n, std::int64_t elems,
                         float re_scale, float im_scale, float* to))
// Floats of scratch that a task of one block needs.
COLUBER_DECLARE_PER_ISA(std::int64_t, scan_forward_scratch, (const ScanCall& call))
COLUBER_DECLARE_PER_ISA(void, scan_forward_task, (const ScanCall& call, const ScanTask& task, float* scratch))
COLUBER_DECLARE_PER_ISA(std::int64_t, scan_backward_scratch, (const ScanCall& call))
COLUBER_DECLARE_PER_ISA(void, scan_backward_task,
                        (const ScanCall& call, const SelectiveScanGradParams<float>& g, const ScanGradTask& task,
                         float* scratch))
// What a strand makes of `before`, the state (or adjoint) that enters it, is added to `after`, computed without it.
COLUBER_DECLARE_PER_ISA(void, scan_join,
                        (const ScanCall& call, const float* dt_sum, const float* before, bool adjoint, float* after))
// One token of row b for channels [first, last); real A.
COLUBER_DECLARE_PER_ISA(void, scan_step_channels,
                        (const SelectiveScanParams<float>& p, std::int64_t b, std::int64_t first, std::int64_t last))

}  // namespace coluber::cpu
