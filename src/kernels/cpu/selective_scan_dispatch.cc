// Divides a selective scan into tasks: strands of sequences times blocks of channel vectors. The division depends on
// shapes and borders only, and sums are added in its order, so that any number of threads gives the same bits.
#include <algorithm>

#include "core/arena.h"
#include "core/threads.h"
#include "kernels/cpu/selective_scan_isa.h"

namespace coluber::cpu {
namespace {

using Params = SelectiveScanParams<float>;
using GradParams = SelectiveScanGradParams<float>;

constexpr float kLog2E = 1.44269504088896340736f;
constexpr float kTurn = 0.15915494309189533577f;  // 1 / (2 pi)

// Rows of a batch are walked side by side up to this many; more are walked one after the other.
constexpr std::int64_t kMaxStrands = 32;
constexpr std::int64_t kSumsBytes = 32 << 20;  // sums of all strands in double at most
// Blocks of backward are as wide as leaves this many of them. Not a matter of the batch, so that gradients of B and C,
// summed block by block, have the same bits alone, in a batch and in a packed row.
constexpr std::int64_t kMinBlocks = 4;
// States that are stored for a call with pieces of kShortPiece tokens take at most so much memory.
constexpr std::int64_t kShortPiece = 16, kShortPieceBytes = 64 << 20;
// A single vector of channels is divided over its length into parts of at least this many tokens, at most kMaxParts.
constexpr std::int64_t kPartTokens = 512, kMaxParts = 16;
// Outputs (b,l,d) of at least this many bytes are stored past the caches, where three inputs as large leave them little
// room. At D 128 N 16 that was no slower from 512 KiB on, and 12% faster at 2^18 tokens; but a prompt of 512 at 130m, 3
// MiB, which the next product reads at once, took 2% longer.
constexpr std::int64_t kStreamBytes = 4 << 20;
// Rows of B's and C's gradients before they are summed over channels; bounds the length of a window.
constexpr std::int64_t kSlabBytes = 8 << 20;

struct Kernels {
  std::int64_t lanes = COLUBER_PICK_ISA(scan_lanes)();
  decltype(&base::scan_to_tiles) to_tiles = COLUBER_PICK_ISA(scan_to_tiles);
  decltype(&base::scan_join) join = COLUBER_PICK_ISA(scan_join);
  decltype(&base::scan_forward_scratch) forward_scratch = COLUBER_PICK_ISA(scan_forward_scratch);
  decltype(&base::scan_forward_task) forward_task = COLUBER_PICK_ISA(scan_forward_task);
  decltype(&base::scan_backward_scratch) backward_scratch = COLUBER_PICK_ISA(scan_backward_scratch);
  decltype(&base::scan_backward_task) backward_task = COLUBER_PICK_ISA(scan_backward_task);
  decltype(&base::scan_step_channels) step_channels = COLUBER_PICK_ISA(scan_step_channels);
};
const Kernels& kernels() {
  static const Kernels picked;
  return picked;
}

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

struct Strand {
  const ScanPiece* pieces = nullptr;
  std::int64_t num_pieces = 0;
  bool has_reset = false;
};

// The division of a call, in scratch memory.
struct Plan {
  ScanCall call;
  Strand* strands = nullptr;
  std::int64_t num_strands = 0;
  bool parts = false;  // the strands are parts of one sequence
  std::int64_t vecs_per_task = 1;
  std::int64_t state_elems = 0;  // of all vectors: (v,n,e,lanes)

  std::int64_t num_blocks() const { return ceil_div(call.num_vecs, vecs_per_task); }
  std::int64_t num_tasks() const { return num_strands * num_blocks(); }
};

// Floats of one channel's state.
std::int64_t state_width(const Params& p) {
  return p.n * (p.is_complex ? 2 : 1);
}
// Widths whose pieces are short. Backward keeps decays, states and two gradients of a piece and up to 8 floats of
// state: 32 KiB for 16 tokens, which L1 holds, 128 KiB for 64. It took 0.68 of the time.
bool is_short(std::int64_t width) {
  return width >= 8 && width <= 16;
}

// Tokens of a piece. Where states are stored there is one for each piece, of 1/2 to 1 float a token and channel in
// short ones: as much as another activation, so only where that is little.
std::int64_t piece_tokens(const Params& p, bool stores_states) {
  const std::int64_t width = state_width(p);
  const std::int64_t bytes = p.u.shape[0] * p.u.shape[1] * p.d * width / kShortPiece * static_cast<std::int64_t>(4);
  return stores_states && is_short(width) && bytes <= kShortPieceBytes ? kShortPiece : kScanMostPiece;
}

std::int64_t num_checkpoints(const Params& p) {
  std::int64_t count = 0;
  for (std::int64_t slot = 0; slot < p.num_sequences; ++slot)
    count += ceil_div(p.sequences[slot].end - p.sequences[slot].begin, piece_tokens(p, true));
  return count;
}

// f(piece) for all pieces of one sequence: borders every `most` tokens and at every reset.
template <class F>
void for_pieces(const Params& p, std::int64_t most, std::int64_t slot, std::int64_t first_checkpoint, F&& f) {
  const SequenceRange& s = p.sequences[slot];
  const std::int64_t length = s.end - s.begin;
  auto is_reset = [&](std::int64_t i) {
    return p.resets && p.resets(s.row, p.reverse ? s.end - 1 - i : s.begin + i) != 0;
  };
  std::int64_t first = 0;
  do {
    ScanPiece piece;
    piece.slot = slot;
    piece.row = s.row;
    piece.first = first;
    piece.begins = first == 0;
    if (first % most == 0 && first < length) piece.checkpoint = first_checkpoint + first / most;
    piece.reset = first < length && is_reset(first);
    const std::int64_t border = std::min(length, (first / most + 1) * most);
    std::int64_t end = std::min(first + 1, border);
    while (end < border && !is_reset(end)) ++end;
    piece.count = end - first;
    piece.ends = end == length;
    f(piece);
    first = end;
  } while (first < length);
}

// Sequences in order, shared out by tokens.
void divide_sequences(const Params& p, std::int64_t max_strands, ArenaScope& scope, Plan& plan) {
  const std::int64_t most_tokens = plan.call.piece_tokens;
  std::int64_t tokens = 0, pieces = 0, most = std::min(max_strands, p.num_sequences);
  for (std::int64_t slot = 0; slot < p.num_sequences; ++slot) {
    tokens += p.sequences[slot].end - p.sequences[slot].begin;
    for_pieces(p, most_tokens, slot, 0, [&](const ScanPiece&) { ++pieces; });
  }
  ScanPiece* next = scope.allocate<ScanPiece>(pieces);
  plan.strands = scope.allocate<Strand>(std::max(most, kMaxParts));
  std::int64_t before = 0, checkpoint = 0;
  for (std::int64_t slot = 0; slot < p.num_sequences; ++slot) {
    // Empty sequences after the last token stay with the last strand.
    const bool is_next = before * most >= plan.num_strands * std::max<std::int64_t>(tokens, 1);
    if (plan.num_strands == 0 || (is_next && plan.num_strands < most))
      plan.strands[plan.num_strands++] = {next, 0, false};
    Strand& strand = plan.strands[plan.num_strands - 1];
    for_pieces(p, most_tokens, slot, checkpoint, [&](const ScanPiece& piece) {
      *next++ = piece;
      ++strand.num_pieces;
    });
    const std::int64_t length = p.sequences[slot].end - p.sequences[slot].begin;
    before += length;
    checkpoint += ceil_div(length, most_tokens);
  }
}

// One sequence of one vector: parts of its length, so that threads have something to share.
void divide_length(const Params& p, Plan& plan) {
  const std::int64_t length = p.sequences[0].end - p.sequences[0].begin;
  const std::int64_t parts = std::min(kMaxParts, length / kPartTokens);
  if (parts < 2) return;
  const Strand whole = plan.strands[0];
  const ScanPiece* piece = whole.pieces;
  for (std::int64_t part = 0; part < parts; ++part) {
    const std::int64_t end = length * (part + 1) / parts / kScanMostPiece * kScanMostPiece;
    Strand strand{piece, 0, false};
    while (piece != whole.pieces + whole.num_pieces && (part + 1 == parts || piece->first < end)) {
      strand.has_reset = strand.has_reset || piece->reset;
      ++strand.num_pieces;
      ++piece;
    }
    plan.strands[part] = strand;
  }
  plan.num_strands = parts;
  plan.parts = true;
}

std::int64_t channels_per_group(const Params& p, const View<const float, 4>& rows) {
  return rows.shape[2] == 0 ? 1 : p.d / rows.shape[2];
}

// Whether every aligned run of `channels` channels lies within one group.
bool within_groups(const Params& p, const View<const float, 4>& rows, std::int64_t channels) {
  return rows.shape[2] == 1 || channels_per_group(p, rows) % channels == 0;
}

ScanCoefficients coefficients(const Params& p, const View<const float, 4>& rows, bool is_constant, bool shared,
                              ArenaScope& scope, const Plan& plan) {
  if (shared) return {ScanRows::kShared, &rows, nullptr};
  if (!is_constant) return {ScanRows::kGathered, &rows, nullptr};
  float* tiles = scope.allocate<float>(plan.state_elems);
  kernels().to_tiles(rows.data, rows.strides[2], p.d, p.n, plan.call.elems, 1, 1, tiles);
  return {ScanRows::kConstant, &rows, tiles};
}

Plan make_plan(const Params& p, float* checkpoints, ArenaScope& scope) {
  const std::int64_t lanes = kernels().lanes;
  Plan plan;
  plan.call.p = &p;
  plan.call.elems = p.is_complex ? 2 : 1;
  plan.call.piece_tokens = piece_tokens(p, checkpoints != nullptr);
  plan.call.num_vecs = ceil_div(p.d, lanes);
  plan.call.checkpoints = checkpoints;
  plan.call.streams = p.u.shape[0] * p.u.shape[1] * p.d * static_cast<std::int64_t>(sizeof(float)) >= kStreamBytes;
  plan.state_elems = plan.call.num_vecs * p.n * plan.call.elems * lanes;
  float* A = scope.allocate<float>(plan.state_elems);
  kernels().to_tiles(p.A.data, p.A.strides[0], p.d, p.n, plan.call.elems, kLog2E, kTurn, A);
  plan.call.A = A;
  const bool shared =
      !p.B_is_constant && !p.C_is_constant && within_groups(p, p.B, lanes) && within_groups(p, p.C, lanes);
  plan.call.B = coefficients(p, p.B, p.B_is_constant, shared, scope, plan);
  plan.call.C = coefficients(p, p.C, p.C_is_constant, shared, scope, plan);
  const std::int64_t sums_bytes = 3 * plan.state_elems * static_cast<std::int64_t>(sizeof(double));
  divide_sequences(p, std::clamp<std::int64_t>(kSumsBytes / std::max<std::int64_t>(sums_bytes, 1), 1, kMaxStrands),
                   scope, plan);
  if (p.num_sequences == 1 && plan.call.num_vecs == 1) divide_length(p, plan);
  return plan;
}

void widen_for_forward(Plan& plan, int num_threads) {  // changes no bits there
  plan.vecs_per_task = plan.call.piece_tokens > kShortPiece ? kScanMostBlock / 2 : kScanMostBlock;  // of tiles in L1
  while (plan.vecs_per_task > 1 && plan.num_tasks() < num_threads) plan.vecs_per_task /= 2;
}
void widen_for_backward(const Params& p, Plan& plan) {
  auto fits = [&] {
    const std::int64_t channels = plan.vecs_per_task * kernels().lanes;
    return plan.call.B.kind != ScanRows::kShared ||
           (within_groups(p, p.B, channels) && within_groups(p, p.C, channels));
  };
  plan.vecs_per_task = is_short(state_width(p)) ? kScanMostBlock : kScanMostBlock / 2;
  while (plan.vecs_per_task > 1 && !(fits() && plan.num_blocks() >= kMinBlocks)) plan.vecs_per_task /= 2;
}

// f(strand, block, scratch of this thread) for all tasks.
template <class F>
void run_tasks(ThreadPool& threads, ArenaScope& scope, const Plan& plan, std::int64_t scratch_elems, F&& f) {
  float* scratch = scope.allocate<float>(scratch_elems * threads.num_threads());
  threads.run_shares(plan.num_tasks(), [&](std::int64_t begin, std::int64_t end, int thread) {
    for (std::int64_t task = begin; task < end; ++task)
      f(task / plan.num_blocks(), task % plan.num_blocks(), scratch + thread * scratch_elems);
  });
}

ScanTask task_of(const Plan& plan, std::int64_t strand, std::int64_t block) {
  ScanTask task;
  task.pieces = plan.strands[strand].pieces;
  task.num_pieces = plan.strands[strand].num_pieces;
  task.first_vec = block * plan.vecs_per_task;
  task.num_vecs = std::min(plan.vecs_per_task, plan.call.num_vecs - task.first_vec);
  return task;
}

void run_forward(ThreadPool& threads, ArenaScope& scope, Plan plan) {
  widen_for_forward(plan, threads.num_threads());
  const std::int64_t elems = plan.state_elems, scratch_elems = kernels().forward_scratch(plan.call);
  float *ends = nullptr, *dt_sums = nullptr;
  if (plan.parts) {
    ends = scope.allocate<float>(plan.num_strands * elems);
    dt_sums = scope.allocate<float>(plan.num_strands * kernels().lanes);
  }
  run_tasks(threads, scope, plan, scratch_elems, [&](std::int64_t strand, std::int64_t block, float* scratch) {
    ScanTask task = task_of(plan, strand, block);
    if (plan.parts) {
      task.end = ends + strand * elems;
      task.dt_sum = dt_sums + strand * kernels().lanes;
    }
    kernels().forward_task(plan.call, task, scratch);
  });
  if (!plan.parts) return;
  // Every part but the first began with no state: what the true one adds decays through the part.
  for (std::int64_t part = 1; part < plan.num_strands; ++part) {
    if (plan.strands[part].has_reset) continue;
    kernels().join(plan.call, dt_sums + part * kernels().lanes, ends + (part - 1) * elems, false, ends + part * elems);
  }
  run_tasks(threads, scope, plan, scratch_elems, [&](std::int64_t strand, std::int64_t block, float* scratch) {
    if (strand == 0) return;
    ScanTask task = task_of(plan, strand, block);
    task.decay_only = true;
    task.start = ends + (strand - 1) * elems;
    kernels().forward_task(plan.call, task, scratch);
  });
}

// One token for every row. States are lanes there, so short of tasks it divides channels freely.
void run_step(ThreadPool& threads, const Params& p) {
  constexpr std::int64_t kElemsPerTask = 8192;  // about 2 us
  const std::int64_t lanes = kernels().lanes;
  const std::int64_t vecs = std::clamp<std::int64_t>(kElemsPerTask / (p.n * lanes), 1, ceil_div(p.d, lanes));
  const std::int64_t blocks = ceil_div(p.d, vecs * lanes);
  threads.run(p.num_sequences * blocks, [&](std::int64_t task) {
    const std::int64_t first = task % blocks * vecs * lanes;
    kernels().step_channels(p, task / blocks, first, std::min(p.d, first + vecs * lanes));
  });
}

bool is_step(const Params& p) {
  if (p.is_complex || p.u.shape[1] != 1) return false;
  for (std::int64_t slot = 0; slot < p.num_sequences; ++slot) {
    const SequenceRange& s = p.sequences[slot];
    if (s.row != slot || s.end - s.begin != 1) return false;
  }
  return true;
}

// What backward adds up over tokens and over channels.
struct GradPlan {
  ScanGradSums sums;  // of strand 0; the next one's lie `strand` numbers further
  std::int64_t tile_numbers = 0, lane_numbers = 0;
  std::int64_t window = 1, piece_tokens = 0;  // a window in pieces
  std::int64_t unit_vecs = 1, num_units = 1;  // vectors whose sum a slab holds, and how many slabs
  ScanGradRows B, C;                          // of strand 0 and unit 0

  std::int64_t strand_elems(const ScanGradRows& rows, std::int64_t row_elems) const {
    return window * piece_tokens * rows.groups * row_elems;
  }
};

double* zeros(ArenaScope& scope, std::int64_t count) {
  double* p = scope.allocate<double>(count);
  std::fill_n(p, count, 0.0);
  return p;
}

// Groups that a run of `channels` channels touches at most.
std::int64_t groups_touched(const Params& p, const View<const float, 4>& rows, std::int64_t channels) {
  const std::int64_t per_group = std::max<std::int64_t>(channels_per_group(p, rows), 1);
  return std::min(rows.shape[2], (channels + per_group - 2) / per_group + 1);
}

GradPlan make_grad_plan(const Params& p, const Plan& plan, ArenaScope& scope) {
  const std::int64_t lanes = kernels().lanes, row_elems = p.n * plan.call.elems;
  GradPlan gp;
  gp.piece_tokens = plan.call.piece_tokens;
  gp.tile_numbers = plan.state_elems;
  gp.lane_numbers = plan.call.num_vecs * lanes;
  gp.sums.A = zeros(scope, plan.num_strands * gp.tile_numbers);
  if (p.B_is_constant) gp.sums.B = zeros(scope, plan.num_strands * gp.tile_numbers);
  if (p.C_is_constant) gp.sums.C = zeros(scope, plan.num_strands * gp.tile_numbers);
  gp.sums.D = zeros(scope, plan.num_strands * gp.lane_numbers);
  gp.sums.dt_bias = zeros(scope, plan.num_strands * gp.lane_numbers);
  const bool shared = plan.call.B.kind == ScanRows::kShared;
  gp.unit_vecs = shared ? plan.vecs_per_task : 1;
  gp.num_units = ceil_div(plan.call.num_vecs, gp.unit_vecs);
  if (!shared) {
    gp.B.groups = p.B_is_constant ? 0 : groups_touched(p, p.B, lanes);
    gp.C.groups = p.C_is_constant ? 0 : groups_touched(p, p.C, lanes);
  }
  const std::int64_t piece_bytes = plan.num_strands * gp.num_units * gp.piece_tokens * (gp.B.groups + gp.C.groups) *
                                   row_elems * static_cast<std::int64_t>(sizeof(float));
  std::int64_t most = 1;
  for (std::int64_t i = 0; i < plan.num_strands; ++i) most = std::max(most, plan.strands[i].num_pieces);
  gp.window = std::clamp<std::int64_t>(kSlabBytes / std::max<std::int64_t>(piece_bytes, 1), 1, most);
  for (ScanGradRows* rows : {&gp.B, &gp.C}) {
    const std::int64_t unit_elems = plan.num_strands * gp.strand_elems(*rows, row_elems);
    rows->at = scope.allocate<float>(gp.num_units * unit_elems);
    rows->vec_stride = unit_elems;
  }
  return gp;
}

// Pieces [begin, end) of a strand that the w-th window from its end holds.
struct Window {
  std::int64_t begin, end;
};
Window window_of(const Strand& strand, std::int64_t pieces, std::int64_t w) {
  return {std::max<std::int64_t>(strand.num_pieces - (w + 1) * pieces, 0),
          std::max<std::int64_t>(strand.num_pieces - w * pieces, 0)};
}

ScanGradTask grad_task_of(const Plan& plan, const GradPlan& gp, std::int64_t strand, std::int64_t block,
                          const Window& window, float* adjoints) {
  const std::int64_t row_elems = plan.call.p->n * plan.call.elems;
  ScanGradTask task;
  task.pieces = plan.strands[strand].pieces + window.begin;
  task.num_pieces = window.end - window.begin;
  task.first_vec = block * plan.vecs_per_task;
  task.num_vecs = std::min(plan.vecs_per_task, plan.call.num_vecs - task.first_vec);
  task.adjoint = adjoints + strand * plan.state_elems;
  auto advance = [&](double* sums, std::int64_t numbers) { return sums == nullptr ? sums : sums + strand * numbers; };
  task.sums = {advance(gp.sums.A, gp.tile_numbers), advance(gp.sums.B, gp.tile_numbers),
               advance(gp.sums.C, gp.tile_numbers), advance(gp.sums.D, gp.lane_numbers),
               advance(gp.sums.dt_bias, gp.lane_numbers)};
  auto rows_of_task = [&](const ScanGradRows& rows) {
    const std::int64_t unit = task.first_vec / gp.unit_vecs;
    return ScanGradRows{rows.at + unit * rows.vec_stride + strand * gp.strand_elems(rows, row_elems), rows.groups,
                        rows.vec_stride};
  };
  task.B = rows_of_task(gp.B);
  task.C = rows_of_task(gp.C);
  return task;
}

// Slabs of one window -> gradients of B or C: for every token and group the units that touch it, in order.
void sum_units(const Plan& plan, const GradPlan& gp, const ScanGradRows& rows, std::int64_t strand,
               const Window& window, std::int64_t k, const View<float, 4>& to) {
  const Params& p = *plan.call.p;
  const ScanPiece& piece = plan.strands[strand].pieces[window.begin + k];
  const SequenceRange& s = p.sequences[piece.slot];
  const std::int64_t row_elems = p.n * plan.call.elems, per_group = p.d / to.shape[2];
  const std::int64_t unit_channels = gp.unit_vecs * kernels().lanes;
  const float* piece_rows =
      rows.at + strand * gp.strand_elems(rows, row_elems) + k * gp.piece_tokens * rows.groups * row_elems;
  for (std::int64_t t = 0; t < piece.count; ++t) {
    const std::int64_t token = p.reverse ? s.end - 1 - piece.first - t : s.begin + piece.first + t;
    for (std::int64_t group = 0; group < to.shape[2]; ++group) {
      float* out = to.ptr(piece.row, token, group);
      const std::int64_t first = group * per_group / unit_channels;
      const std::int64_t last = ((group + 1) * per_group - 1) / unit_channels;
      for (std::int64_t unit = first; unit <= last; ++unit) {
        const std::int64_t local = group - unit * unit_channels / per_group;
        const float* from = piece_rows + unit * rows.vec_stride + (t * rows.groups + local) * row_elems;
        for (std::int64_t i = 0; i < row_elems; ++i) out[i] = (unit == first ? 0 : out[i]) + from[i];
      }
    }
  }
}

void run_windows(ThreadPool& threads, ArenaScope& scope, const Plan& plan, const GradPlan& gp, const GradParams& g,
                 float* adjoints) {
  std::int64_t most = 0;
  for (std::int64_t i = 0; i < plan.num_strands; ++i) most = std::max(most, plan.strands[i].num_pieces);
  const std::int64_t scratch_elems = kernels().backward_scratch(plan.call);
  float* scratch = scope.allocate<float>(scratch_elems * threads.num_threads());
  for (std::int64_t w = 0; w * gp.window < most; ++w) {
    threads.run_shares(plan.num_tasks(), [&](std::int64_t begin, std::int64_t end, int thread) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t strand = i / plan.num_blocks();
        const Window window = window_of(plan.strands[strand], gp.window, w);
        if (window.begin == window.end) continue;
        kernels().backward_task(plan.call, g, grad_task_of(plan, gp, strand, i % plan.num_blocks(), window, adjoints),
                                scratch + thread * scratch_elems);
      }
    });
    threads.run(plan.num_strands * gp.window, [&](std::int64_t i) {
      const std::int64_t strand = i / gp.window, k = i % gp.window;
      const Window window = window_of(plan.strands[strand], gp.window, w);
      if (k >= window.end - window.begin) return;
      if (!plan.call.p->B_is_constant) sum_units(plan, gp, gp.B, strand, window, k, g.grad_B);
      if (!plan.call.p->C_is_constant) sum_units(plan, gp, gp.C, strand, window, k, g.grad_C);
    });
  }
}

// Adjoints that enter parts from the next part.
void join_parts(ThreadPool& threads, ArenaScope& scope, const Plan& plan, const GradPlan& gp, const GradParams& g,
                float* adjoints) {
  const std::int64_t lanes = kernels().lanes, scratch_elems = kernels().backward_scratch(plan.call);
  float* made = scope.allocate<float>(plan.num_strands * plan.state_elems);  // leaving a part at its begin
  float* dt_sums = scope.allocate<float>(plan.num_strands * lanes);
  std::fill_n(made, plan.num_strands * plan.state_elems, 0.0f);
  std::fill_n(dt_sums, plan.num_strands * lanes, 0.0f);
  run_tasks(threads, scope, plan, scratch_elems, [&](std::int64_t strand, std::int64_t block, float* scratch) {
    if (strand == 0) return;
    ScanGradTask task = grad_task_of(plan, gp, strand, block, {0, plan.strands[strand].num_pieces}, made);
    task.adjoint_only = true;
    task.dt_sum = dt_sums + strand * lanes;
    kernels().backward_task(plan.call, g, task, scratch);
  });
  for (std::int64_t part = plan.num_strands - 1; part > 0; --part) {
    float* leaving = made + part * plan.state_elems;
    const bool passes = part + 1 < plan.num_strands && !plan.strands[part].has_reset;
    if (passes) kernels().join(plan.call, dt_sums + part * lanes, adjoints + part * plan.state_elems, true, leaving);
    std::copy_n(leaving, plan.state_elems, adjoints + (part - 1) * plan.state_elems);
  }
}

// Sums of all strands, (v,n,e,lanes) or (v,lanes) -> (d,n e) or (d).
void write_sums(const Plan& plan, const double* sums, std::int64_t width, float* to, std::int64_t stride) {
  if (sums == nullptr || to == nullptr) return;
  const std::int64_t lanes = kernels().lanes, numbers = plan.call.num_vecs * width * lanes;
  for (std::int64_t d = 0; d < plan.call.p->d; ++d) {
    for (std::int64_t i = 0; i < width; ++i) {
      double sum = 0;
      for (std::int64_t strand = 0; strand < plan.num_strands; ++strand)
        sum += sums[strand * numbers + (d / lanes * width + i) * lanes + d % lanes];
      to[d * stride + i] = static_cast<float>(sum);
    }
  }
}

}  // namespace

std::int64_t selective_scan_checkpoint_elems(const Params& p) {
  const std::int64_t lanes = kernels().lanes;
  return num_checkpoints(p) * ceil_div(p.d, lanes) * lanes * p.n * (p.is_complex ? 2 : 1);
}

void selective_scan_forward(ThreadPool& threads, Arena& scratch, const Params& p, float* checkpoints) {
  if (checkpoints == nullptr && is_step(p)) return run_step(threads, p);
  ArenaScope scope(scratch);
  run_forward(threads, scope, make_plan(p, checkpoints, scope));
}

void selective_scan_backward(ThreadPool& threads, Arena& scratch, const Params& p, const float* checkpoints,
                             const GradParams& g) {
  ArenaScope scope(scratch);
  float* states = const_cast<float*>(checkpoints);  // only read
  if (checkpoints == nullptr) {
    states = scope.allocate<float>(selective_scan_checkpoint_elems(p));
    Params states_only = p;
    states_only.y = {};
    states_only.state_out = {};
    ArenaScope forward_scope(scratch);
    run_forward(threads, forward_scope, make_plan(states_only, states, forward_scope));
  }
  Plan plan = make_plan(p, states, scope);
  float* plain_A = scope.allocate<float>(plan.state_elems);
  kernels().to_tiles(p.A.data, p.A.strides[0], p.d, p.n, plan.call.elems, 1, 1, plain_A);
  plan.call.plain_A = plain_A;
  widen_for_backward(p, plan);
  const GradPlan gp = make_grad_plan(p, plan, scope);
  float* adjoints = scope.allocate<float>(plan.num_strands * plan.state_elems);
  std::fill_n(adjoints, plan.num_strands * plan.state_elems, 0.0f);
  if (plan.parts) join_parts(threads, scope, plan, gp, g, adjoints);
  run_windows(threads, scope, plan, gp, g, adjoints);
  const std::int64_t width = p.n * plan.call.elems;
  write_sums(plan, gp.sums.A, width, g.grad_A.data, g.grad_A.strides[0]);
  write_sums(plan, gp.sums.B, width, g.grad_B.data, g.grad_B.strides[2]);
  write_sums(plan, gp.sums.C, width, g.grad_C.data, g.grad_C.strides[2]);
  write_sums(plan, gp.sums.D, 1, g.grad_D, 1);
  write_sums(plan, gp.sums.dt_bias, 1, g.grad_dt_bias, 1);
}

}  // namespace coluber::cpu
