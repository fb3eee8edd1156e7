// Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011).
//
// The i-th number of a stream is a pure function of (seed, stream, i): no state is carried, so any split over threads
// gives the same numbers, and a checkpoint stores only the counters.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

namespace coluber {

class Rng {
 public:
  Rng(std::uint64_t seed, std::uint64_t stream) : seed_(seed), stream_(stream) {}

  // Four 32-bit words for block number `block`.
  std::array<std::uint32_t, 4> block(std::uint64_t block) const {
    std::array<std::uint32_t, 4> c = {low(block), high(block), low(stream_), high(stream_)};
    std::uint32_t k0 = low(seed_), k1 = high(seed_);
    for (int round = 0; round < 10; ++round) {
      const std::uint64_t p0 = 0xD2511F53ull * c[0], p1 = 0xCD9E8D57ull * c[2];
      c = {high(p1) ^ c[1] ^ k0, low(p1), high(p0) ^ c[3] ^ k1, low(p0)};
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    return c;
  }

  std::uint32_t bits(std::uint64_t index) const { return block(index / 4)[index % 4]; }

  // Uniform in [0, 1) with 24 bits: exact in float and double.
  double uniform(std::uint64_t index) const { return static_cast<double>(bits(index) >> 8) * 0x1p-24; }

  // Standard normal by Box-Muller; two numbers share a pair of words.
  double normal(std::uint64_t index) const {
    const std::array<std::uint32_t, 4> w = block(index / 2);
    const double u = (static_cast<double>(w[0]) + 0.5) * 0x1p-32;
    const double angle = 6.283185307179586476925 * ((static_cast<double>(w[1]) + 0.5) * 0x1p-32);
    const double radius = std::sqrt(-2.0 * std::log(u));
    return radius * (index % 2 == 0 ? std::cos(angle) : std::sin(angle));
  }

  // Uniform integer in [0, bound), bound >= 1, by 64-bit multiplication (bias below bound / 2^64).
  std::uint64_t below(std::uint64_t index, std::uint64_t bound) const {
    const std::array<std::uint32_t, 4> w = block(index);
    const std::uint64_t x = (static_cast<std::uint64_t>(w[0]) << 32) | w[1];
    __extension__ using uint128 = unsigned __int128;
    return static_cast<std::uint64_t>((static_cast<uint128>(x) * bound) >> 64);
  }

  std::uint64_t seed() const { return seed_; }
  std::uint64_t stream() const { return stream_; }

 private:
  static std::uint32_t low(std::uint64_t x) { return static_cast<std::uint32_t>(x); }
  static std::uint32_t high(std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); }

  std::uint64_t seed_;
  std::uint64_t stream_;
};

}  // namespace coluber
