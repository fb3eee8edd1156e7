// Sizes from files, multiplied without trust.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>

namespace coluber {

// Bytes of that many elements; nothing when they, or the strides of a row-major tensor (where an extent of 0 counts as
// 1), do not fit into an int64.
inline std::optional<std::int64_t> checked_size_bytes(std::span<const std::int64_t> extents,
                                                      std::int64_t element_bytes) {
  std::int64_t span_bytes = element_bytes;
  bool empty = false;
  for (const std::int64_t extent : extents) {
    empty = empty || extent == 0;
    if (__builtin_mul_overflow(span_bytes, std::max<std::int64_t>(extent, 1), &span_bytes)) return std::nullopt;
  }
  return empty ? 0 : span_bytes;
}

}  // namespace coluber
