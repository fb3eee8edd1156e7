// Sums over parts, added up in the order of the parts: what keeps a gradient the same for any thread count.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/threads.h"

namespace coluber::cpu {

// to[i] = sum of parts[part * n + i]
inline void sum_parts(ThreadPool& threads, const double* parts, std::int64_t num_parts, std::int64_t n, float* to) {
  constexpr std::int64_t kColumns = 512;  // 4 KiB of sums, in L1 beside what is added
  threads.run((n + kColumns - 1) / kColumns, [&](std::int64_t task) {
    const std::int64_t begin = task * kColumns, count = std::min(kColumns, n - begin);
    double sums[kColumns] = {};
    for (std::int64_t part = 0; part < num_parts; ++part)
      for (std::int64_t i = 0; i < count; ++i) sums[i] += parts[part * n + begin + i];
    for (std::int64_t i = 0; i < count; ++i) to[begin + i] = static_cast<float>(sums[i]);
  });
}

}  // namespace coluber::cpu
