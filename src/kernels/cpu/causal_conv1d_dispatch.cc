// Cuts a convolution into pieces of tokens and blocks of channels, and carries the states.
#include <algorithm>
#include <vector>

#include "core/arena.h"
#include "core/threads.h"
#include "kernels/cpu/causal_conv1d_isa.h"
#include "kernels/cpu/ordered_sum.h"

namespace coluber::cpu {
namespace {

// The cut depends on the shape alone. Wider blocks gain a few percent where memory is read in longer runs, narrower
// ones are more tasks for short sequences. A width is a multiple of kConvMaxLanes.
constexpr std::int64_t kPieceTokens = 128;  // 2 (k-1) tokens of a backward piece are slow or done twice
constexpr std::int64_t kBlockChannels = 512;
// Outputs (b,l,d) of at least this many bytes are stored past the caches, which would read each line first and hold
// little of them for who comes next. 4096 tokens of 512 channels: forward 0.55 of the time, backward 0.81.
constexpr std::int64_t kStreamBytes = 4 << 20;
constexpr std::int64_t kMaxSumParts = 64;  // bounds the scratch of weight gradients: 64 (k+1,d) doubles

std::vector<ConvPiece> cut(const CausalConv1dParams<float>& p) {
  std::vector<ConvPiece> pieces;
  for (std::int64_t slot = 0; slot < p.num_sequences; ++slot) {
    const std::int64_t l = p.sequences[slot].end - p.sequences[slot].begin;
    std::int64_t first = 0;
    do {
      pieces.push_back({slot, first, std::min(kPieceTokens, l - first)});
      first += kPieceTokens;
    } while (first < l);
  }
  return pieces;
}

// (s,d,k-1) -> (s,k-1,d); null when absent or empty.
const float* transposed_states(ThreadPool& threads, ArenaScope& scope, const CausalConv1dParams<float>& p,
                               View<const float, 3> states) {
  const std::int64_t last = p.k - 1;
  if (!states || p.num_sequences * p.d * last == 0) return nullptr;
  float* out = scope.allocate<float>(p.num_sequences * last * p.d);
  threads.run(p.num_sequences, [&](std::int64_t slot) {
    for (std::int64_t j = 0; j < last; ++j)
      for (std::int64_t c = 0; c < p.d; ++c) out[(slot * last + j) * p.d + c] = states(slot, c, j);
  });
  return out;
}

struct Blocks {
  std::int64_t d, width;
  std::int64_t count() const { return (d + width - 1) / width; }
  ConvChannels at(std::int64_t block) const { return {block * width, std::min(width, d - block * width)}; }
};

// Elements of packed weights, or of their gradients.
std::int64_t packed_elems(const CausalConv1dParams<float>& p) {
  return (p.d + kConvMaxLanes - 1) / kConvMaxLanes * kConvMaxLanes * (p.k + 1);
}

ConvCall prepare(ThreadPool& threads, ArenaScope& scope, const CausalConv1dParams<float>& p, const Blocks& blocks) {
  static const auto pack = COLUBER_PICK_ISA(conv_pack_weights);
  float* weights = scope.allocate<float>(packed_elems(p));
  threads.run(blocks.count(),
              [&](std::int64_t block) { pack(p, blocks.at(block), weights + blocks.at(block).first * (p.k + 1)); });
  float* zeros = scope.allocate<float>(p.d);
  std::fill(zeros, zeros + p.d, 0.0f);
  const std::int64_t bytes = p.x.shape[0] * p.x.shape[1] * p.d * static_cast<std::int64_t>(sizeof(float));
  return {&p, weights, zeros, transposed_states(threads, scope, p, p.state_in), nullptr, bytes >= kStreamBytes};
}

// The last k-1 inputs, zero before the last reset.
void write_states(ThreadPool& threads, const ConvCall& call) {
  const CausalConv1dParams<float>& p = *call.p;
  threads.run(p.num_sequences, [&](std::int64_t slot) {
    const SequenceRange& q = p.sequences[slot];
    const std::int64_t l = q.end - q.begin;
    bool live = true;
    for (std::int64_t j = p.k - 2; j >= 0; --j) {
      const std::int64_t s = l - p.k + 1 + j, token = p.reverse ? q.end - 1 - s : q.begin + s;
      const float* from = call.zeros;
      if (live && s >= 0) from = p.x.ptr(q.row, token);
      if (live && s < 0 && call.state_in != nullptr) from = call.state_in + (slot * (p.k - 1) + l + j) * p.d;
      for (std::int64_t c = 0; c < p.d; ++c) p.state_out(slot, c, j) = from[c];
      live = live && !(p.resets && s >= 0 && p.resets(q.row, token) != 0);
    }
  });
}

bool is_step(const CausalConv1dParams<float>& p) {
  if (p.k > kConvMaxUnrolled) return false;
  for (std::int64_t slot = 0; slot < p.num_sequences; ++slot)
    if (p.sequences[slot].end - p.sequences[slot].begin != 1) return false;
  return true;
}

}  // namespace

void causal_conv1d_forward(ThreadPool& threads, Arena& scratch, const CausalConv1dParams<float>& p) {
  const Blocks blocks{p.d, kBlockChannels};
  if (is_step(p)) {  // no rows to share: transposing weights and states first would cost more than the step
    static const auto step = COLUBER_PICK_ISA(conv_step);
    threads.run(blocks.count(), [&](std::int64_t block) { step(p, blocks.at(block)); });
    return;
  }
  static const auto kernel = COLUBER_PICK_ISA(conv_forward_piece);
  ArenaScope scope(scratch);
  const ConvCall call = prepare(threads, scope, p, blocks);
  const std::vector<ConvPiece> pieces = cut(p);
  const float** taps = scope.allocate<const float*>(threads.num_threads() * p.k);
  threads.run_shares(static_cast<std::int64_t>(pieces.size()) * blocks.count(),
                     [&](std::int64_t begin, std::int64_t end, int thread) {
                       for (std::int64_t task = begin; task < end; ++task) {
                         kernel(call, pieces[static_cast<std::size_t>(task / blocks.count())],
                                blocks.at(task % blocks.count()), {taps + thread * p.k, nullptr});
                       }
                     });
  if (p.state_out) write_states(threads, call);
}

void causal_conv1d_backward(ThreadPool& threads, Arena& scratch, const CausalConv1dParams<float>& p,
                            const CausalConv1dGradParams<float>& g) {
  static const auto kernel = COLUBER_PICK_ISA(conv_backward_pieces);
  const Blocks blocks{p.d, kBlockChannels};
  ArenaScope scope(scratch);
  ConvCall call = prepare(threads, scope, p, blocks);
  call.grad_state_out = transposed_states(threads, scope, p, g.grad_state_out);
  const std::vector<ConvPiece> pieces = cut(p);
  const auto num_pieces = static_cast<std::int64_t>(pieces.size());
  const std::int64_t per_part = std::max<std::int64_t>(1, (num_pieces + kMaxSumParts - 1) / kMaxSumParts);
  const std::int64_t parts = (num_pieces + per_part - 1) / per_part;
  const std::int64_t sum_elems = packed_elems(p);
  double* sums = scope.allocate<double>(parts * sum_elems);
  std::fill(sums, sums + parts * sum_elems, 0.0);
  const std::int64_t elems = ConvScratch::elems(p.k, kBlockChannels);
  const float** taps = scope.allocate<const float*>(threads.num_threads() * p.k);
  float* floats = scope.allocate<float>(threads.num_threads() * elems);
  threads.run_shares(parts * blocks.count(), [&](std::int64_t begin, std::int64_t end, int thread) {
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t part = task / blocks.count(), first = part * per_part;
      kernel(call, g, pieces.data() + first, std::min(per_part, num_pieces - first), blocks.at(task % blocks.count()),
             {taps + thread * p.k, floats + thread * elems}, sums + part * sum_elems);
    }
  });
  float* total = scope.allocate<float>(sum_elems);
  sum_parts(threads, sums, parts, sum_elems, total);
  static const auto unpack = COLUBER_PICK_ISA(conv_unpack_grads);
  threads.run(blocks.count(), [&](std::int64_t block) {
    unpack(g, p.k, blocks.at(block), total + blocks.at(block).first * (p.k + 1));
  });
}

}  // namespace coluber::cpu
