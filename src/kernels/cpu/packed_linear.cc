// y = x W^T with packed weights (packed_linear.h): 32 tokens meet 32 outputs in four tiles of c, kBlockSteps steps of k
// at a time, whose 16 KiB of weights stay in L1 while tokens stream from L2.
//
// Vector instructions between tile products cost more than apart from them (one sweep of a scan and four products take
// 1.3 to 1.5 times the sum of both alone), so nothing is done beside a block's products but asking for cache lines.
#include "kernels/cpu/packed_linear.h"

#if defined(COLUBER_ISA_AVX512)
#include <algorithm>
#include <cstring>

#include "kernels/cpu/gemm_own_pack.h"
#include "kernels/cpu/gemm_own_tiles.h"
#include "kernels/cpu/simd.h"

namespace coluber::cpu::avx512 {
namespace {

constexpr std::int64_t kLine = 64, kTile = 16;  // bytes of a line, lines of a tile
constexpr std::int64_t kTileFloats = kTile * kTile, kBlockFloats = 4 * kTileFloats;
constexpr std::int64_t kTileElems = kTile * kLine / 2;  // of bf16
constexpr std::int64_t kSide = PackedLinear::kSide;
constexpr std::int64_t kStepElems = PackedLinear::kStepElems;
constexpr std::int64_t kPanelStep = PackedLinear::kPanelStep;
constexpr std::int64_t kBlockSteps = TileLinear::kBlockSteps;

// c = or += `steps` steps of a panel of tokens times a panel of weights; c is four tiles, row by row.
template <bool kBelow>
void multiply_block(const bfloat16* x, const bfloat16* weights, std::int64_t steps, bool add, float* c,
                    const TileResults* then) {
  if (add) {
    load_tile<0>(c, kLine);
    load_tile<1>(c + kTileFloats, kLine);
    if constexpr (kBelow) {
      load_tile<2>(c + 2 * kTileFloats, kLine);
      load_tile<3>(c + 3 * kTileFloats, kLine);
    }
  } else {
    zero_tile<0>();
    zero_tile<1>();
    zero_tile<2>();
    zero_tile<3>();
  }
  for (std::int64_t s = 0; s < steps; ++s, x += kPanelStep, weights += kPanelStep) {
    load_tile<6>(weights, kLine);
    load_tile<4>(x, kLine);
    add_tile_product<0, 4, 6>();
    load_tile<7>(weights + kTileElems, kLine);
    add_tile_product<1, 4, 7>();
    if constexpr (kBelow) {
      load_tile<5>(x + kTileElems, kLine);
      add_tile_product<2, 5, 6>();
      add_tile_product<3, 5, 7>();
    }
    if (then != nullptr) then->ask(s, steps);
  }
  store_tile<0>(c, kLine);
  store_tile<1>(c + kTileFloats, kLine);
  if constexpr (kBelow) {
    store_tile<2>(c + 2 * kTileFloats, kLine);
    store_tile<3>(c + 3 * kTileFloats, kLine);
  }
}

// The results of a block, four tiles for each part, to rows of y.
void store_block(const PackedLinear& p, const float* c, std::int64_t token, std::int64_t output) {
  const std::int64_t tokens = std::min(kSide, p.m - token), outputs = std::min(kSide, p.n - output);
  const std::int64_t low = std::min(outputs, kTile), high = outputs - low;
  VecF bias[2] = {};
  if (p.bias != nullptr) {
    bias[0] = load_first(p.bias + output, low);
    bias[1] = load_first(p.bias + output + low, high);
  }
  float* y = p.y + token * p.ldy + output;
  for (std::int64_t t = 0; t < tokens; ++t, y += p.ldy) {
    const float* row = c + t / kTile * 2 * kTileFloats + t % kTile * kTile;
    VecF first = load(row), second = load(row + kTileFloats);
    if (p.parts == PackedLinear::kExactParts) {
      first += load(row + kBlockFloats) + load(row + 2 * kBlockFloats);
      second += load(row + kTileFloats + kBlockFloats) + load(row + kTileFloats + 2 * kBlockFloats);
    }
    if (p.bias != nullptr) {
      first += bias[0];
      second += bias[1];
    }
    if (p.streams && outputs == kSide) {
      stream(y, first);
      stream(y + kTile, second);
    } else {
      store_first(y, first, low);
      store_first(y + low, second, high);
    }
  }
}

// Into L2: a share of the tiles from `next` on.
void ask_for(const bfloat16* next, std::int64_t elems, std::int64_t share, std::int64_t shares) {
  constexpr std::int64_t kLineElems = kLine / 2;
  const std::int64_t lines = elems / kLineElems;
  for (std::int64_t i = lines * share / shares; i < lines * (share + 1) / shares; ++i)
    __builtin_prefetch(next + i * kLineElems, 0, 2);
}

}  // namespace

void pack_weight_panel(const bfloat16* w, std::int64_t ldw, std::int64_t n, std::int64_t k, std::int64_t output,
                       bfloat16* to) {
  for (std::int64_t l = 0; l < k; l += kStepElems) {
    const std::size_t bytes = static_cast<std::size_t>(std::min(kStepElems, k - l)) * sizeof(bfloat16);
    for (std::int64_t tile = output; tile < output + kSide; tile += kTile, to += kTileElems) {
      alignas(64) bfloat16 rows[kTile][kStepElems] = {};
      const void* lines[kTile];
      for (std::int64_t i = 0; i < kTile; ++i) {
        lines[i] = rows[i];
        if (tile + i < n) std::memcpy(rows[i], w + (tile + i) * ldw + l, bytes);
      }
      for (std::int64_t pair = 0; pair < kTile; pair += 4) {
        VecF turned[4];
        transpose_four_units(lines, 4 * pair, turned);
        for (std::int64_t i = 0; i < 4; ++i) store(reinterpret_cast<float*>(to) + (pair + i) * kTile, turned[i]);
      }
    }
  }
}

void round_tokens(const float* x, std::int64_t ldx, std::int64_t tokens, std::int64_t k, std::int64_t block,
                  bfloat16* to) {
  const std::int64_t begin = block * kBlockSteps * kStepElems, end = std::min(begin + kBlockSteps * kStepElems, k);
  for (std::int64_t t = 0; t < std::min(kSide, tokens); ++t, x += ldx, to += kStepElems) {
    bfloat16* step = to;
    for (std::int64_t l = begin; l < end; l += kStepElems, step += kPanelStep) {
      const std::int64_t low = std::min<std::int64_t>(end - l, kLanes), high = std::min(end - l, kStepElems) - low;
      store(reinterpret_cast<float*>(step), round_to_pairs(load_first(x + l, low), load_first(x + l + kLanes, high)));
    }
  }
}

void packed_linear(const PackedLinear& p, const TileLinearTask& task, float* sums) {
  TileShapes shapes;
  shapes.set_rows(kSide);
  const std::int64_t steps = TileLinear::num_steps(p.k);
  const std::int64_t down = p.parts * TileLinear::num_panels(task.tokens);  // a panel's parts one after the other
  const std::int64_t across = TileLinear::num_panels(task.outputs);
  const bfloat16* const weights = p.weights + task.output / kSide * steps * kPanelStep;
  for (std::int64_t first = 0; first < steps; first += kBlockSteps) {
    const std::int64_t count = std::min(kBlockSteps, steps - first);
    const bool last = first + count == steps;
    const bfloat16* const x = p.x + p.token_offset(first / kBlockSteps, task.token / kSide);
    const std::int64_t next_count = std::min(kBlockSteps, steps - first - count);
    const bfloat16* const next_x = p.x + p.token_offset(first / kBlockSteps + 1, task.token / kSide);
    float* c = sums;
    for (std::int64_t j = 0; j < across; ++j) {
      const bfloat16* const block = weights + (j * steps + first) * kPanelStep;
      const std::int64_t output = task.output + j * kSide;
      for (std::int64_t i = 0; i < down; ++i, c += kBlockFloats) {
        if (j + 1 < across) ask_for(block + steps * kPanelStep, count * kPanelStep, i, down);
        if (!last) ask_for(next_x, down * next_count * kPanelStep, j * down + i, across * down);
        const std::int64_t token = task.token + i / p.parts * kSide;
        const bool last_part = last && (i + 1) % p.parts == 0;
        const TileResults results{p.y + token * p.ldy + output, p.ldy, std::min(kSide, p.n - output),
                                  std::min(kSide, p.m - token)};
        const auto multiply = token + kTile < p.m ? &multiply_block<true> : &multiply_block<false>;
        multiply(x + i * count * kPanelStep, block, count, first > 0, c, last_part && !p.streams ? &results : nullptr);
        if (last_part) store_block(p, c - (p.parts - 1) * kBlockFloats, token, output);
      }
    }
  }
  if (p.streams) order_streams();
}

}  // namespace coluber::cpu::avx512
#endif
