#include <algorithm>

#include "kernels/cpu/elementwise_isa.h"
#include "kernels/cpu/simd.h"

namespace coluber::cpu::COLUBER_ISA {
namespace {

using HalfF = float __attribute__((vector_size(kLanes * 2)));
using HalfD = double __attribute__((vector_size(kLanes * 4)));
constexpr int kHalf = kLanes / 2;

HalfD load_as_double(const float* p) {
  HalfF v;
  std::memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, HalfD);
}

// The 64-bit products of the low halves of 64-bit lanes.
using VecU64 = std::uint64_t __attribute__((vector_size(kLanes * 4)));
inline VecU64 multiply_low(VecU64 a, VecU64 b) {
#if defined(COLUBER_ISA_AVX512)
  return reinterpret_cast<VecU64>(
      _mm512_maskz_mul_epu32(0xff, reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif defined(COLUBER_ISA_AVX2)
  return reinterpret_cast<VecU64>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

struct WideProduct {
  VecU low, high;
};
inline WideProduct multiply(VecU a, std::uint32_t b) {
  const VecU64 factor = VecU64{} + b, lanes = reinterpret_cast<VecU64>(a);
  const VecU64 even = multiply_low(lanes, factor), odd = multiply_low(lanes >> 32, factor);
  constexpr std::uint64_t kLow = 0xffffffff;
  return {reinterpret_cast<VecU>((even & kLow) | (odd << 32)), reinterpret_cast<VecU>((even >> 32) | (odd & ~kLow))};
}

// Philox4x32-10 as in core/rng.h, a block a lane. Bit w of lane i of the result: word w of block first_block + i says
// keep.
VecU keep_bits(const DropoutMask& mask, std::uint64_t first_block) {
  VecU lane{};
  for (int i = 0; i < kLanes; ++i) lane[i] = static_cast<std::uint32_t>(i);
  const auto low = static_cast<std::uint32_t>(first_block), high = static_cast<std::uint32_t>(first_block >> 32);
  const auto carry_from = reinterpret_cast<VecU>(lane + low < lane);  // -1 where the low word has wrapped
  VecU c0 = lane + low, c1 = high - carry_from;
  VecU c2 = VecU{} + static_cast<std::uint32_t>(mask.stream),
       c3 = VecU{} + static_cast<std::uint32_t>(mask.stream >> 32);
  auto key0 = static_cast<std::uint32_t>(mask.seed), key1 = static_cast<std::uint32_t>(mask.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const WideProduct p0 = multiply(c0, 0xD2511F53u), p1 = multiply(c2, 0xCD9E8D57u);
    c0 = p1.high ^ c1 ^ key0;
    c1 = p1.low;
    c2 = p0.high ^ c3 ^ key1;
    c3 = p0.low;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  auto keep = [&](VecU word, std::uint32_t bit) { return reinterpret_cast<VecU>((word >> 8) >= mask.threshold) & bit; };
  return keep(c0, 1) | keep(c1, 2) | keep(c2, 4) | keep(c3, 8);
}

using Block = std::int32_t __attribute__((vector_size(16)));  // the four elements that a Philox block decides

// All ones where bit w is set.
struct BlockMasks {
  Block of[16];
};
constexpr BlockMasks block_masks() {
  BlockMasks masks{};
  for (int bits = 0; bits < 16; ++bits)
    masks.of[bits] = Block{-(bits & 1), -(bits >> 1 & 1), -(bits >> 2 & 1), -(bits >> 3 & 1)};
  return masks;
}
constexpr BlockMasks kBlockMasks = block_masks();

}  // namespace

void add_span(float* accumulator, const float* x, std::int64_t n, float scale) {
  for (std::int64_t i = 0; i < n; i += kLanes) {
    const std::int64_t count = std::min<std::int64_t>(n - i, kLanes);
    if (count == kLanes)
      store(accumulator + i, load(accumulator + i) + scale * load(x + i));
    else
      store_first(accumulator + i, load_first(accumulator + i, count) + scale * load_first(x + i, count), count);
  }
}

void scale_span(float* x, std::int64_t n, float scale) {
  for (std::int64_t i = 0; i < n; i += kLanes) {
    const std::int64_t count = std::min<std::int64_t>(n - i, kLanes);
    if (count == kLanes)
      store(x + i, scale * load(x + i));
    else
      store_first(x + i, scale * load_first(x + i, count), count);
  }
}

void neg_exp_span(float* y, const float* x, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, -exp(load(x + i)));
  if (i < n) store_first(y + i, -exp(load_first(x + i, n - i)), n - i);
}

double sum_of_squares_span(const float* x, std::int64_t n) {
  constexpr int kSums = 4;  // independent sums hide the latency of an add
  HalfD sums[kSums] = {};
  std::int64_t i = 0;
  for (; i + kSums * kHalf <= n; i += kSums * kHalf) {
    for (int s = 0; s < kSums; ++s) {
      const HalfD v = load_as_double(x + i + s * kHalf);
      sums[s] += v * v;
    }
  }
  const HalfD sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  double total = 0;
  for (int lane = 0; lane < kHalf; ++lane) total += sum[lane];
  for (; i < n; ++i) total += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return total;
}

void dropout_span(float* y, const float* x, std::int64_t n, const DropoutMask& mask) {
  using BlockF = float __attribute__((vector_size(16)));
  constexpr std::int64_t kBatch = 4 * kLanes;  // elements that one vector of blocks decides
  float batch[kBatch];
  std::int64_t i = 0;
  while (i < n) {
    const std::uint64_t index = mask.first + static_cast<std::uint64_t>(i);
    const auto skip = static_cast<std::int64_t>(index % 4);  // of the first block: a row may begin inside one
    const std::int64_t count = std::min<std::int64_t>(n - i, kBatch - skip);
    const VecU keep = keep_bits(mask, index / 4);
    const bool whole = count == kBatch;
    if (!whole) std::copy(x + i, x + i + count, batch + skip);
    const float* from = whole ? x + i : batch;
    float* to = whole ? y + i : batch;
    std::uint32_t bits[kLanes];
    std::memcpy(bits, &keep, sizeof bits);
    for (int block = 0; block < kLanes; ++block) {
      BlockF v;
      std::memcpy(&v, from + 4 * block, sizeof v);
      const Block kept = reinterpret_cast<Block>(v * mask.factor) & kBlockMasks.of[bits[block]];  // a dropped NaN is 0
      std::memcpy(to + 4 * block, &kept, sizeof kept);
    }
    if (!whole) std::copy(batch + skip, batch + skip + count, y + i);
    i += count;
  }
}

}  // namespace coluber::cpu::COLUBER_ISA
