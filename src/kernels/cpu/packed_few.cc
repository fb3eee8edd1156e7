// Products of up to kSkinnyRows tokens with packed weights (packed_linear.h), whose limit is how fast memory is read,
// and how tokens are laid out for them.
//
// Weights are read by vectors, line after line, with lines kAheadBytes on asked for: loads of tiles do not follow
// memory as loads of vectors do (8 tokens of 130m: 26 GB/s where a copy into L1 gives 30 and nothing but reading 32).
// One token multiplies the vectors as they come, a lane an output; several are the rows of tile products, whose weights
// are copied to L1 two steps before.
#include "kernels/cpu/packed_linear.h"

#if defined(COLUBER_ISA_AVX512)
#include <algorithm>

#include "kernels/cpu/gemm_own_pack.h"
#include "kernels/cpu/gemm_own_tiles.h"
#include "kernels/cpu/simd.h"

namespace coluber::cpu::avx512 {
namespace {

constexpr std::int64_t kLine = 64, kTile = 16;  // bytes of a line, lines of a tile
constexpr std::int64_t kLineElems = kLine / 2;  // of bf16
constexpr std::int64_t kTileElems = kTile * kLineElems;
constexpr std::int64_t kTileFloats = kTile * kTile;
constexpr std::int64_t kPanelStep = PackedLinear::kPanelStep;
constexpr std::int64_t kStepElems = PackedLinear::kStepElems;
constexpr std::int64_t kExactParts = PackedLinear::kExactParts;
constexpr std::int64_t kAheadBytes = 6 << 10;  // 4 and 8 KiB: one token 0.94 and 0.97 of the rate
constexpr std::int32_t kUpperHalf = static_cast<std::int32_t>(0xffff0000u);

// Kept where it is written, one line at a time, and with it the loads of x around it: together they spill registers.
void ask_ahead(const bfloat16* line) {
  asm volatile("prefetcht1 %0" : : "m"(*(reinterpret_cast<const char*>(line) + kAheadBytes)) : "memory");
}

// The next 8 bits of x, as a bf16 number, are taken away from it. What is not finite is one part, and NaN stays NaN.
VecF take_part(VecF& x) {
  constexpr std::int32_t kExponent = 0x7f800000, kQuiet = 0x00400000;
  const VecI bits = bit_cast_i(x), finite = (bits & kExponent) != kExponent, nan = x != x;
  const VecF part = bit_cast_f((bits | (nan & kQuiet)) & kUpperHalf);
  x = bit_cast_f(bit_cast_i(x - part) & finite);
  return part;
}

// A step of a token, rounded to bf16 or in its parts, `part` elements apart.
template <std::int64_t kCount>
void store_parts(const float* x, std::int64_t k, std::int64_t step, bfloat16* to, std::int64_t part) {
  const std::int64_t l = step * kStepElems;
  const std::int64_t low = std::min<std::int64_t>(k - l, kLanes), high = std::min(k - l, kStepElems) - low;
  VecF first = load_first(x + l, low), second = load_first(x + l + kLanes, high);
  if constexpr (kCount == 1) {
    store(reinterpret_cast<float*>(to), round_to_pairs(first, second));
  } else {
    for (std::int64_t i = 0; i < kCount; ++i, to += part) {
      const VecF first_part = take_part(first), second_part = take_part(second);
      store(reinterpret_cast<float*>(to), round_to_pairs(first_part, second_part));  // which has nothing to round
    }
  }
}

// Sums of a panel's outputs to the rows of y; sum(part, token, half) is 16 of them.
template <std::int64_t kCount, class Sum>
void store_panel(const FewTokens& p, std::int64_t panel, Sum&& sum) {
  for (std::int64_t half = 0; half < 2; ++half) {
    const std::int64_t output = panel * PackedLinear::kSide + half * kTile;
    const std::int64_t outputs = std::min(kTile, p.n - output);
    if (outputs <= 0) return;
    const VecF bias = p.bias == nullptr ? VecF{} : load_first(p.bias + output, outputs);
    for (std::int64_t t = 0; t < p.m; ++t) {
      VecF y = sum(0, t, half);
      if constexpr (kCount == kExactParts) y += sum(1, t, half) + sum(2, t, half);
      store_first(p.y + t * p.ldy + output, p.bias == nullptr ? y : y + bias, outputs);
    }
  }
}

// One token: what tile products do, in their order, even and odd elements of k apart.
template <std::int64_t kCount>
void multiply_one(const FewTokens& p, std::int64_t panel) {
  const std::int64_t steps = TileLinear::num_steps(p.k);
  const bfloat16* weights = p.weights + panel * steps * kPanelStep;
  const float* x = p.one;
  VecF sums[2][kCount] = {};
  for (std::int64_t s = 0; s < steps; ++s, x += kCount * kStepElems) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half, weights += kTileElems) {
      VecF even[kCount] = {}, odd[kCount] = {};
#pragma GCC unroll 16
      for (int pair = 0; pair < kTile; ++pair) {
        ask_ahead(weights + pair * kLineElems);
        VecI pairs = bit_cast_i(load_units(weights + pair * kLineElems));
        hold(pairs);
        const VecF first = bit_cast_f(pairs << 16), second = bit_cast_f(pairs & kUpperHalf);
#pragma GCC unroll 3
        for (std::int64_t part = 0; part < kCount; ++part) {
          even[part] += first * splat(x[part * kStepElems + 2 * pair]);
          odd[part] += second * splat(x[part * kStepElems + 2 * pair + 1]);
        }
      }
#pragma GCC unroll 3
      for (std::int64_t part = 0; part < kCount; ++part) sums[half][part] += even[part] + odd[part];
    }
  }
  store_panel<kCount>(p, panel, [&](std::int64_t part, std::int64_t, std::int64_t half) { return sums[half][part]; });
}

// Steps of weights, copied to L1 kBefore steps before they are multiplied.
class Steps {
 public:
  Steps(const bfloat16* weights, std::int64_t count) : weights_(weights), count_(count) {
    for (std::int64_t s = 0; s < kBefore; ++s) copy_next();
  }
  // The next step, whose place is kept until kBefore more were taken.
  const bfloat16* operator[](std::int64_t s) const { return copies_[s % kPlaces]; }

  void copy_next() {
    if (copied_ == count_) return;
    bfloat16* const to = copies_[copied_++ % kPlaces];
#pragma GCC unroll 8
    for (std::int64_t i = 0; i < kPanelStep; i += kLineElems) {
      ask_ahead(weights_ + i);
      store(reinterpret_cast<float*>(to + i), load_units(weights_ + i));
    }
    weights_ += kPanelStep;
  }

 private:
  static constexpr std::int64_t kBefore = 2, kPlaces = 4;

  const bfloat16* weights_;
  std::int64_t count_, copied_ = 0;
  alignas(kLine) bfloat16 copies_[kPlaces][kPanelStep];
};

// c = tokens' parts times a panel, four tiles, row by row; `first` counts its first step among those of `weights`.
template <bool kBelow>
void multiply_panel(const FewTokens& p, Steps& weights, std::int64_t first, float* c) {
  zero_tile<0>();
  zero_tile<1>();
  if constexpr (kBelow) {
    zero_tile<2>();
    zero_tile<3>();
  }
  const std::int64_t steps = TileLinear::num_steps(p.k);
  const bfloat16* x = p.x;
  for (std::int64_t s = first; s < first + steps; ++s, x += p.parts * p.m * kStepElems) {
    const bfloat16* const step = weights[s];
    load_tile<6>(step, kLine);
    load_tile<4>(x, kLine);
    add_tile_product<0, 4, 6>();
    load_tile<7>(step + kTileElems, kLine);
    add_tile_product<1, 4, 7>();
    if constexpr (kBelow) {
      load_tile<5>(x + kTileElems, kLine);
      add_tile_product<2, 5, 6>();
      add_tile_product<3, 5, 7>();
    }
    weights.copy_next();
  }
  store_tile<0>(c, kLine);
  store_tile<1>(c + kTileFloats, kLine);
  if constexpr (kBelow) {
    store_tile<2>(c + 2 * kTileFloats, kLine);
    store_tile<3>(c + 3 * kTileFloats, kLine);
  }
}

}  // namespace

void split_tokens(const float* x, std::int64_t ldx, std::int64_t tokens, std::int64_t k, std::int64_t block,
                  bfloat16* to) {
  const std::int64_t first = block * TileLinear::kBlockSteps,
                     end = std::min(first + TileLinear::kBlockSteps, TileLinear::num_steps(k));
  for (std::int64_t t = 0; t < std::min(PackedLinear::kSide, tokens); ++t)
    for (std::int64_t step = first; step < end; ++step)
      store_parts<kExactParts>(x + t * ldx, k, step, to + (step - first) * kPanelStep + t * kStepElems,
                               (end - first) * kPanelStep);
}

void lay_out_one_token(const FewTokens& p, const float* x, float* to) {
  for (std::int64_t step = 0; step < TileLinear::num_steps(p.k); ++step) {
    alignas(kLine) bfloat16 parts[kExactParts * kStepElems];
    if (p.parts == kExactParts)
      store_parts<kExactParts>(x, p.k, step, parts, kStepElems);
    else
      store_parts<1>(x, p.k, step, parts, 0);
    for (std::int64_t i = 0; i < p.parts * kStepElems; i += kLanes, to += kLanes) store(to, load_bf16(parts + i));
  }
}

void lay_out_few_tokens(const FewTokens& p, const float* x, std::int64_t ldx, bfloat16* to) {
  for (std::int64_t step = 0; step < TileLinear::num_steps(p.k); ++step, to += p.parts * p.m * kStepElems) {
    for (std::int64_t t = 0; t < p.m; ++t) {
      if (p.parts == kExactParts)
        store_parts<kExactParts>(x + t * ldx, p.k, step, to + t * kStepElems, p.m * kStepElems);
      else
        store_parts<1>(x + t * ldx, p.k, step, to + t * kStepElems, 0);
    }
  }
}

void packed_few(const FewTokens& p, std::int64_t begin, std::int64_t end) {
  if (p.m == 1) {
    for (std::int64_t panel = begin; panel < end; ++panel)
      p.parts == kExactParts ? multiply_one<kExactParts>(p, panel) : multiply_one<1>(p, panel);
    return;
  }
  const std::int64_t steps = TileLinear::num_steps(p.k), rows = p.parts * p.m;
  TileShapes shapes;
  shapes.set_rows(rows);
  Steps weights(p.weights + begin * steps * kPanelStep, (end - begin) * steps);
  alignas(kLine) float c[4 * kTileFloats];
  for (std::int64_t panel = begin; panel < end; ++panel) {
    const auto multiply = rows > kTile ? &multiply_panel<true> : &multiply_panel<false>;
    multiply(p, weights, (panel - begin) * steps, c);
    const auto sum = [&](std::int64_t part, std::int64_t t, std::int64_t half) {
      const std::int64_t row = part * p.m + t;
      return load(c + (row / kTile * 2 + half) * kTileFloats + row % kTile * kTile);
    };
    p.parts == kExactParts ? store_panel<kExactParts>(p, panel, sum) : store_panel<1>(p, panel, sum);
  }
}

}  // namespace coluber::cpu::avx512
#endif
