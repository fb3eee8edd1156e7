#include "core/block_cache.h"

#include <algorithm>
#include <bit>

namespace coluber {
namespace {

constexpr std::int64_t kCacheSlackBytes = 32 << 20;
constexpr std::int64_t kMinClassBytes = 512;               // of blocks that are cached
constexpr std::int64_t kMaxBytes = std::int64_t{1} << 62;  // rounding up stays in range; no machine has as much

}  // namespace

// At most 1/8 is wasted and near sizes share blocks.
std::int64_t BlockCache::size_class(std::int64_t size_bytes) const {
  if (size_bytes > kMaxBytes) return 0;
  if (size_bytes < min_cached_bytes_) return std::max<std::int64_t>((size_bytes + 63) / 64 * 64, 64);
  size_bytes = std::max(size_bytes, kMinClassBytes);
  const auto step = static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(size_bytes))) / 8;
  return (size_bytes + step - 1) / step * step;
}

void* BlockCache::take(std::int64_t bytes) {
  std::lock_guard lock(mutex_);
  void* block = nullptr;
  if (auto it = free_.find(bytes); it != free_.end() && !it->second.empty()) {
    block = it->second.back();
    it->second.pop_back();
    stats_.cached_bytes -= bytes;
  } else {
    trim(bytes);
    block = system_allocate(bytes);
    if (block == nullptr && trims_) {  // give everything back and try once more
      trim_to(0);
      block = system_allocate(bytes);
    }
    if (block == nullptr) return nullptr;
  }
  stats_.live_bytes += bytes;
  stats_.peak_bytes = std::max(stats_.peak_bytes, stats_.live_bytes);
  high_water_bytes_ = std::max(high_water_bytes_, stats_.live_bytes);
  return block;
}

void BlockCache::give(void* block, std::int64_t bytes) {
  std::lock_guard lock(mutex_);
  stats_.live_bytes -= bytes;
  if (bytes < min_cached_bytes_) return system_free(block, bytes);
  retire(block, bytes);
  free_[bytes].push_back(block);
  stats_.cached_bytes += bytes;
}

MemoryStats BlockCache::stats() {
  std::lock_guard lock(mutex_);
  return stats_;
}

void BlockCache::reset_peak() {
  std::lock_guard lock(mutex_);
  stats_.peak_bytes = stats_.live_bytes;
}

void BlockCache::release() {
  std::lock_guard lock(mutex_);
  trim_to(0);
  high_water_bytes_ = stats_.live_bytes;
}

// Before `bytes` more come from the system: keep live + cached within 1.25 high water + slack.
void BlockCache::trim(std::int64_t bytes) {
  if (!trims_) return;
  const std::int64_t live = stats_.live_bytes + bytes;
  const std::int64_t high = std::max(high_water_bytes_, live);
  trim_to(std::max<std::int64_t>(0, high + high / 4 + kCacheSlackBytes - live));
}

void BlockCache::trim_to(std::int64_t limit) {  // largest blocks first: few calls, much memory
  while (stats_.cached_bytes > limit && !free_.empty()) {
    auto last = std::prev(free_.end());
    if (last->second.empty()) {
      free_.erase(last);
      continue;
    }
    system_free(last->second.back(), last->first);
    last->second.pop_back();
    stats_.cached_bytes -= last->first;
  }
}

}  // namespace coluber
