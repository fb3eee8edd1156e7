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

// Philox4x32-10 as in core/rng.h for kBlocks consecutive blocks; the loops over them become vector code.
constexpr int kBlocks = 64;

struct PhiloxBlocks {
  std::uint32_t word[4][kBlocks];
};

void philox(const DropoutMask& mask, std::uint64_t first_block, PhiloxBlocks& out) {
  for (int i = 0; i < kBlocks; ++i) {
    const std::uint64_t block = first_block + static_cast<std::uint64_t>(i);
    out.word[0][i] = static_cast<std::uint32_t>(block);
    out.word[1][i] = static_cast<std::uint32_t>(block >> 32);
    out.word[2][i] = static_cast<std::uint32_t>(mask.stream);
    out.word[3][i] = static_cast<std::uint32_t>(mask.stream >> 32);
  }
  auto key0 = static_cast<std::uint32_t>(mask.seed), key1 = static_cast<std::uint32_t>(mask.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kBlocks; ++i) {
      const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * out.word[0][i];
      const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * out.word[2][i];
      const std::uint32_t c1 = out.word[1][i], c3 = out.word[3][i];
      out.word[0][i] = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ key0;
      out.word[1][i] = static_cast<std::uint32_t>(p1);
      out.word[2][i] = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ key1;
      out.word[3][i] = static_cast<std::uint32_t>(p0);
    }
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

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
  PhiloxBlocks random;
  std::int64_t i = 0;
  while (i < n) {
    const std::uint64_t index = mask.first + static_cast<std::uint64_t>(i);
    philox(mask, index / 4, random);
    const auto skip = static_cast<std::int64_t>(index % 4);  // of the first block: a row may begin inside one
    const std::int64_t count = std::min<std::int64_t>(n - i, 4 * kBlocks - skip);
    float factor[4 * kBlocks];
    for (int block = 0; block < kBlocks; ++block) {
      for (int word = 0; word < 4; ++word)
        factor[4 * block + word] = (random.word[word][block] >> 8) >= mask.threshold ? mask.factor : 0.0f;
    }
    for (std::int64_t j = 0; j < count; ++j) y[i + j] = factor[skip + j] != 0 ? x[i + j] * factor[skip + j] : 0.0f;
    i += count;
  }
}

}  // namespace coluber::cpu::COLUBER_ISA
