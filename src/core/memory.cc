#include "core/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdlib>
#include <map>
#include <mutex>
#include <vector>

#include "coluber/context.h"
#include "core/check.h"
#include "core/sanitizer.h"

namespace coluber {
namespace {

constexpr std::int64_t kMinCachedBytes = 64 << 10;  // below this glibc's own bins are as fast
constexpr std::int64_t kHugePageBytes = 2 << 20;
constexpr std::int64_t kCacheSlackBytes = 32 << 20;
constexpr std::int64_t kMaxBytes = std::int64_t{1} << 62;  // rounding up stays in range; no machine has as much

// Rounds up to one of eight sizes per power of two: at most 1/8 is wasted and near sizes share blocks.
std::int64_t size_class(std::int64_t size_bytes) {
  if (size_bytes < kMinCachedBytes) return std::max<std::int64_t>((size_bytes + 63) / 64 * 64, 64);
  const auto step = static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(size_bytes))) / 8;
  return (size_bytes + step - 1) / step * step;
}

void* system_allocate(std::int64_t size_bytes) {
  const bool huge = size_bytes >= kHugePageBytes;
  const std::size_t alignment = huge ? static_cast<std::size_t>(kHugePageBytes) : kAlignment;
  void* block = nullptr;
  if (posix_memalign(&block, alignment, static_cast<std::size_t>(size_bytes)) != 0) return nullptr;
#ifdef MADV_HUGEPAGE
  if (huge) madvise(block, static_cast<std::size_t>(size_bytes), MADV_HUGEPAGE);  // a hint: failure costs speed only
#endif
  return block;
}

void system_free(void* block, std::int64_t size_bytes) {
  allow_access(block, size_bytes);
  std::free(block);
}

class Cache {
 public:
  void* take(std::int64_t bytes) {
    std::lock_guard lock(mutex_);
    void* block = nullptr;
    if (auto it = free_.find(bytes); it != free_.end() && !it->second.empty()) {
      block = it->second.back();
      it->second.pop_back();
      stats_.cached_bytes -= bytes;
    } else {
      trim(bytes);
      block = system_allocate(bytes);
      if (block == nullptr) {  // give everything back and try once more
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

  void give(void* block, std::int64_t bytes) {
    std::lock_guard lock(mutex_);
    stats_.live_bytes -= bytes;
    if (bytes < kMinCachedBytes) {
      system_free(block, bytes);
      return;
    }
    forbid_access(block, bytes);
    free_[bytes].push_back(block);
    stats_.cached_bytes += bytes;
  }

  MemoryStats stats() {
    std::lock_guard lock(mutex_);
    return stats_;
  }
  void reset_peak() {
    std::lock_guard lock(mutex_);
    stats_.peak_bytes = stats_.live_bytes;
  }
  void release() {
    std::lock_guard lock(mutex_);
    trim_to(0);
    high_water_bytes_ = stats_.live_bytes;
  }

 private:
  // Before `bytes` more come from the system: keep live + cached within 1.25 high water + slack.
  void trim(std::int64_t bytes) {
    const std::int64_t live = stats_.live_bytes + bytes;
    const std::int64_t high = std::max(high_water_bytes_, live);
    trim_to(std::max<std::int64_t>(0, high + high / 4 + kCacheSlackBytes - live));
  }

  void trim_to(std::int64_t limit) {  // largest blocks first: few calls, much memory
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

  std::mutex mutex_;
  std::map<std::int64_t, std::vector<void*>> free_;  // size class -> blocks
  MemoryStats stats_;
  std::int64_t high_water_bytes_ = 0;
};

Cache& cache() {
  static Cache& instance = *new Cache;  // never destroyed: tensors in static storage may outlive it
  return instance;
}

}  // namespace

std::shared_ptr<void> allocate_cpu(std::int64_t size_bytes) {
  const std::int64_t bytes = size_bytes <= kMaxBytes ? size_class(size_bytes) : 0;
  void* block = bytes > 0 ? cache().take(bytes) : nullptr;
  if (block == nullptr) {
    refuse(ErrorCode::kOutOfMemory, "memory",
           join("allocation: expected ", size_bytes, " bytes free, got none (", cache().stats().live_bytes,
                " bytes are in use; a smaller batch or length needs less)"));
  }
  allow_access(block, size_bytes);
  forbid_access(static_cast<std::byte*>(block) + size_bytes, bytes - size_bytes);
  return std::shared_ptr<void>(block, [bytes](void* p) { cache().give(p, bytes); });
}

MemoryStats memory_stats() {
  return cache().stats();
}
void reset_memory_peak() {
  cache().reset_peak();
}
void release_cached_memory() {
  cache().release();
}

}  // namespace coluber
