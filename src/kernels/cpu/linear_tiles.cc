// y = x W^T in bf16 on processors with AMX (linear_tiles.h): W gives the rows of a product, tokens the columns, so that
// weights are taken as they lie in memory and only tokens, of which a weight sees many, are laid out for tiles.
//
// 32 outputs meet 32 tokens in four tiles of c, kBlockSteps steps of k at a time: 16 KiB of weights stay in L1 while
// tokens stream from L2. A result is transposed, (outputs, tokens), and is turned around while the next one is made.
#include "kernels/cpu/linear_tiles.h"

#if defined(COLUBER_ISA_AVX512)
#include <algorithm>
#include <cstring>

#include "kernels/cpu/gemm_own_pack.h"
#include "kernels/cpu/gemm_own_tiles.h"
#include "kernels/cpu/simd.h"

namespace coluber::cpu::avx512 {
namespace {

constexpr std::int64_t kLine = 64;               // bytes: 32 inputs of an output, 16 pairs of a token
constexpr std::int64_t kTileBytes = 16 * kLine;  // 16 lines
constexpr std::int64_t kStepBytes = 2 * kTileBytes;
constexpr std::int64_t kStepElems = TileLinear::kStepElems;
constexpr std::int64_t kBlockSteps = TileLinear::kBlockSteps;
constexpr std::int64_t kSide = TileLinear::kSide;
constexpr std::int64_t kTile = kSide / 2;

// c of one block as it is turned around: 16 pieces of 4 tokens and 16 outputs.
class TurnedBlock {
 public:
  static constexpr std::int64_t kPieces = 16;

  TurnedBlock(const TileLinear& p) : p_(p) {}

  void begin(const float* c, std::int64_t output, std::int64_t token) {
    c_ = c;
    output_ = output;
    token_ = token;
    next_ = 0;
  }
  void store_piece() {
    if (next_ >= kPieces) return;
    const std::int64_t tile = next_ / 4, first = next_ % 4 * 4;
    const std::int64_t output = output_ + tile / 2 * kTile, token = token_ + tile % 2 * kTile + first;
    ++next_;
    const std::int64_t outputs = std::min(kTile, p_.n - output), tokens = std::min<std::int64_t>(4, p_.m - token);
    if (outputs <= 0 || tokens <= 0) return;
    const void* rows[kLanes];
    for (int i = 0; i < kLanes; ++i) rows[i] = c_ + (tile * kTile + i) * kTile;
    VecF v[4];
    transpose_four_units(rows, first * 4, v);
    float* y = p_.y + token * p_.ldy + output;
    if (outputs == kTile && tokens == 4 && p_.bias == nullptr) {
      for (int t = 0; t < 4; ++t) store(y + t * p_.ldy, v[t]);
      return;
    }
    const VecF bias = p_.bias == nullptr ? VecF{} : load_first(p_.bias + output, outputs);
    for (std::int64_t t = 0; t < tokens; ++t)
      store_first(y + t * p_.ldy, p_.bias == nullptr ? v[t] : v[t] + bias, outputs);
  }
  void finish() {
    while (next_ < kPieces) store_piece();
  }

 private:
  const TileLinear& p_;
  const float* c_ = nullptr;
  std::int64_t output_ = 0, token_ = 0, next_ = kPieces;
};

// Some steps of kSide outputs: rows `row` bytes apart, steps `step`.
struct Weights {
  const char* at = nullptr;
  std::int64_t row = kLine, step = kStepBytes;
};

// c = or += weights times a panel of tokens.
template <bool kBeside>
void multiply_block(const Weights& weights, const char* tokens, std::int64_t steps, bool add, float* c,
                    TurnedBlock& before, const TileResults* then) {
  constexpr std::int64_t kElems = kTile * kTile;
  if (add) {
    load_tile<0>(c, kLine);
    load_tile<2>(c + 2 * kElems, kLine);
    if constexpr (kBeside) {
      load_tile<1>(c + kElems, kLine);
      load_tile<3>(c + 3 * kElems, kLine);
    }
  } else {
    zero_tile<0>();
    zero_tile<2>();
    if constexpr (kBeside) {
      zero_tile<1>();
      zero_tile<3>();
    }
  }
  const char *upper = weights.at, *lower = weights.at + kTile * weights.row;
  for (std::int64_t s = 0; s < steps; ++s, upper += weights.step, lower += weights.step, tokens += kStepBytes) {
    load_tile<4>(upper, weights.row);
    load_tile<6>(tokens, kLine);
    add_tile_product<0, 4, 6>();
    if constexpr (kBeside) {
      load_tile<7>(tokens + kTileBytes, kLine);
      add_tile_product<1, 4, 7>();
    }
    load_tile<5>(lower, weights.row);
    add_tile_product<2, 5, 6>();
    if constexpr (kBeside) add_tile_product<3, 5, 7>();
    before.store_piece();
    before.store_piece();
    if (then != nullptr) then->ask(s, steps);
  }
  store_tile<0>(c, kLine);
  store_tile<2>(c + 2 * kElems, kLine);
  if constexpr (kBeside) {
    store_tile<1>(c + kElems, kLine);
    store_tile<3>(c + 3 * kElems, kLine);
  }
}

// Some steps of k of kSide outputs.
struct Block {
  std::int64_t output = 0, first = 0, steps = 0;
};

// Outputs [begin, end) of a block, zero beyond n and k.
void copy_weights(const TileLinear& p, const Block& block, std::int64_t begin, std::int64_t end, char* to) {
  const std::int64_t elems = std::min(block.steps * kStepElems, p.k - block.first * kStepElems);
  const std::int64_t whole = elems / kStepElems;
  for (std::int64_t i = begin; i < end; ++i) {
    char* line = to + i / kTile * kTileBytes + i % kTile * kLine;
    if (block.output + i >= p.n) {
      for (std::int64_t s = 0; s < block.steps; ++s) std::memset(line + s * kStepBytes, 0, kLine);
      continue;
    }
    const bfloat16* from = p.weights + (block.output + i) * p.ldw + block.first * kStepElems;
    for (std::int64_t s = 0; s < whole; ++s)
      store(reinterpret_cast<float*>(line + s * kStepBytes), load_units(from + s * kStepElems));
    if (whole == block.steps) continue;
    std::memset(line + whole * kStepBytes, 0, kLine);
    std::memcpy(line + whole * kStepBytes, from + whole * kStepElems,
                static_cast<std::size_t>(elems - whole * kStepElems) * sizeof(bfloat16));
  }
}

// Into L2: the hardware does not look ahead in so many rows.
void ask_for_weights(const TileLinear& p, const Block& block, std::int64_t begin, std::int64_t end) {
  end = std::min(end, p.n - block.output);
  for (std::int64_t i = begin; i < end; ++i) {
    const bfloat16* from = p.weights + (block.output + i) * p.ldw + block.first * kStepElems;
    for (std::int64_t s = 0; s < block.steps; ++s) __builtin_prefetch(from + s * kStepElems, 0, 2);
  }
}

// The blocks of a task in order: all outputs for some steps of k, so that the tokens' part of these steps stays in L2.
// Beyond the last: the first blocks of the outputs that follow.
class Blocks {
 public:
  Blocks(const TileLinear& p, const TileLinearTask& task)
      : first_output_(task.output), down_(TileLinear::num_panels(task.outputs)), steps_(TileLinear::num_steps(p.k)) {}
  std::int64_t count() const { return down_ * ((steps_ + kBlockSteps - 1) / kBlockSteps); }
  Block operator[](std::int64_t i) const {
    const bool beyond = i >= count();
    const std::int64_t first = beyond ? 0 : i / down_ * kBlockSteps;
    const std::int64_t down = beyond ? down_ + i - count() : i % down_;
    return {first_output_ + down * kSide, first, std::min(kBlockSteps, steps_ - first)};
  }

 private:
  std::int64_t first_output_, down_, steps_;
};

}  // namespace

void pack_tile_tokens(const float* x, std::int64_t ldx, std::int64_t tokens, std::int64_t k, std::int64_t block,
                      bfloat16* to) {
  const std::int64_t first = block * kBlockSteps, last = std::min(first + kBlockSteps, TileLinear::num_steps(k));
  for (std::int64_t step = first; step < last; ++step) {
    const std::int64_t l = step * kStepElems, elems = std::min(kStepElems, k - l);
    const std::int64_t low = std::min<std::int64_t>(elems, kLanes), high = elems - low;
    for (std::int64_t tile = 0; tile < kSide; tile += kTile, to += kTileBytes / 2) {
      VecF pairs[kLanes];
      const void* rows[kLanes];
      for (std::int64_t i = 0; i < kLanes; ++i) {
        const float* from = x + (tile + i) * ldx + l;
        rows[i] = &pairs[i];
        pairs[i] = tile + i >= tokens ? VecF{} : round_to_pairs(load_first(from, low), load_first(from + kLanes, high));
      }
      for (std::int64_t pair = 0; pair < kTile; pair += 4) {
        VecF turned[4];
        transpose_four_units(rows, 4 * pair, turned);
        for (std::int64_t i = 0; i < 4; ++i) store(reinterpret_cast<float*>(to) + (pair + i) * kLanes, turned[i]);
      }
    }
  }
}

void linear_tiles(const TileLinear& p, const TileLinearTask& task, float* scratch) {
  TileShapes shapes;
  shapes.set_rows(kSide);
  TurnedBlock turned(p);
  const Blocks blocks(p, task);
  const std::int64_t panels = TileLinear::num_panels(p.m), task_panels = TileLinear::num_panels(task.tokens);
  const std::int64_t first_panel = task.token / kSide, num_steps = TileLinear::num_steps(p.k);
  char* const copies[] = {reinterpret_cast<char*>(scratch),
                          reinterpret_cast<char*>(scratch + TileLinear::kBlockFloats)};
  float* const sums = scratch + 2 * TileLinear::kBlockFloats;
  // A copy pays from three panels on: its lines lie side by side, whatever power of two is between rows of W.
  const bool copied = task_panels > 2 || p.k % kStepElems != 0;
  auto copies_of = [&](const Block& block) { return copied || block.output + kSide > p.n; };
  if (copies_of(blocks[0])) copy_weights(p, blocks[0], 0, kSide, copies[0]);
  for (std::int64_t j = 0; j < blocks.count(); ++j) {
    const Block block = blocks[j], next = blocks[j + 1], after = blocks[j + 2];
    const bool copies_next = j + 1 < blocks.count() && copies_of(next);
    const bool last_steps = block.first + block.steps == num_steps;
    Weights weights{copies[j % 2]};
    if (!copies_of(block)) {
      const bfloat16* from = p.weights + block.output * p.ldw + block.first * kStepElems;
      weights = {reinterpret_cast<const char*>(from), p.ldw * static_cast<std::int64_t>(sizeof(bfloat16)), kLine};
    }
    const char* tokens =
        reinterpret_cast<const char*>(p.tokens) + (block.first * panels + first_panel * block.steps) * kStepBytes;
    float* c = sums + (block.output - task.output) / kSide * task_panels * kSide * kSide;
    for (std::int64_t i = 0; i < task_panels; ++i, tokens += block.steps * kStepBytes, c += kSide * kSide) {
      const std::int64_t begin = kSide * i / task_panels, end = kSide * (i + 1) / task_panels;
      if (copies_next) copy_weights(p, next, begin, end, copies[(j + 1) % 2]);
      ask_for_weights(p, after, begin, end);
      const std::int64_t token = (first_panel + i) * kSide;
      const TileResults results{p.y + token * p.ldy + block.output, p.ldy, std::min(kSide, p.n - block.output),
                                std::min(kSide, p.m - token)};
      const auto multiply = token + kTile < p.m ? &multiply_block<true> : &multiply_block<false>;
      multiply(weights, tokens, block.steps, block.first > 0, c, turned, last_steps ? &results : nullptr);
      if (!last_steps) continue;
      turned.finish();
      turned.begin(c, block.output, token);
    }
  }
  turned.finish();
}

}  // namespace coluber::cpu::avx512
#endif
