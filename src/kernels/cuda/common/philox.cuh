// core/rng.h's Rng(seed, stream).block(block): Philox4x32-10.
#pragma once

#include <cstdint>

namespace coluber::cuda {

__device__ __forceinline__ uint4 philox_block(std::uint64_t seed, std::uint64_t stream, std::uint64_t block) {
  uint4 c = {static_cast<unsigned>(block), static_cast<unsigned>(block >> 32), static_cast<unsigned>(stream),
             static_cast<unsigned>(stream >> 32)};
  auto key0 = static_cast<unsigned>(seed), key1 = static_cast<unsigned>(seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const unsigned low0 = 0xD2511F53u * c.x, high0 = __umulhi(0xD2511F53u, c.x);
    const unsigned low1 = 0xCD9E8D57u * c.z, high1 = __umulhi(0xCD9E8D57u, c.z);
    c = {high1 ^ c.y ^ key0, low1, high0 ^ c.w ^ key1, low0};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return c;
}

}  // namespace coluber::cuda
