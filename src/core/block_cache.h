// BlockCache: blocks of memory that are given back are kept and handed out again.
//
// A training step asks for the same sizes in the same order every time, so a steady state allocates nothing and sees
// the same addresses. Sizes are rounded up to one of eight classes per power of two. Where it trims, the cache is
// bounded: live + cached never exceeds the peak of live by more than a quarter (+ 32 MiB). Where the bytes come from is
// up to who derives from it (core/memory.cc, core/cuda/memory.cc).
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

#include "coluber/context.h"

namespace coluber {

class BlockCache {
 public:
  // `trims`: gives back what is cached beyond the bound; else only release() does.
  explicit BlockCache(std::int64_t min_cached_bytes, bool trims = true)
      : min_cached_bytes_(min_cached_bytes), trims_(trims) {}
  virtual ~BlockCache() = default;
  BlockCache(const BlockCache&) = delete;
  BlockCache& operator=(const BlockCache&) = delete;

  // Bytes of the block that take() gives for so many; 0 when no machine has as much.
  std::int64_t size_class(std::int64_t size_bytes) const;
  void* take(std::int64_t bytes);  // a size class; null when the system has none
  void give(void* block, std::int64_t bytes);

  MemoryStats stats();
  void reset_peak();
  void release();  // all that is cached goes back to the system

  // Keep others out for a while (core/fork.h).
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  virtual void* system_allocate(std::int64_t bytes) = 0;  // null when there is none
  virtual void system_free(void* block, std::int64_t bytes) = 0;
  virtual void retire(void*, std::int64_t) {}  // a block goes into the cache

  void trim(std::int64_t bytes);
  void trim_to(std::int64_t limit);

  const std::int64_t min_cached_bytes_;
  const bool trims_;
  std::mutex mutex_;
  std::map<std::int64_t, std::vector<void*>> free_;  // size class -> blocks
  MemoryStats stats_;
  std::int64_t high_water_bytes_ = 0;
};

}  // namespace coluber
