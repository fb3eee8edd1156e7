#include "core/memory.h"

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>

#include "coluber/context.h"
#include "core/block_cache.h"
#include "core/check.h"
#include "core/cuda.h"
#include "core/fork.h"
#include "core/sanitizer.h"

namespace coluber {
namespace {

constexpr std::int64_t kMinCachedBytes = 64 << 10;  // below this glibc's own bins are as fast
constexpr std::int64_t kHugePageBytes = 2 << 20;

class HeapCache final : public BlockCache {
 public:
  HeapCache() : BlockCache(kMinCachedBytes) {}

 private:
  void* system_allocate(std::int64_t size_bytes) override {
    const bool huge = size_bytes >= kHugePageBytes;
    const std::size_t alignment = huge ? static_cast<std::size_t>(kHugePageBytes) : kAlignment;
    void* block = nullptr;
    if (posix_memalign(&block, alignment, static_cast<std::size_t>(size_bytes)) != 0) return nullptr;
#ifdef MADV_HUGEPAGE
    if (huge) madvise(block, static_cast<std::size_t>(size_bytes), MADV_HUGEPAGE);  // a hint: failure costs speed only
#endif
    return block;
  }

  void system_free(void* block, std::int64_t size_bytes) override {
    allow_access(block, size_bytes);
    std::free(block);
  }

  void retire(void* block, std::int64_t bytes) override {
    forbid_access(block, bytes);
  }
};

HeapCache& cache() {
  static HeapCache& instance = *new HeapCache;  // never destroyed: tensors in static storage may outlive it
  hold_across_forks<cache>();
  return instance;
}

}  // namespace

std::shared_ptr<void> allocate_cpu(std::int64_t size_bytes) {
  const std::int64_t bytes = cache().size_class(size_bytes);
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

std::shared_ptr<void> allocate(std::int64_t size_bytes, Device device, DType dtype) {
  return device.type == DeviceType::kCpu ? allocate_cpu(size_bytes) : cuda::allocate(size_bytes, device.index, dtype);
}

MemoryStats memory_stats(Device device) {
  return device.type == DeviceType::kCpu ? cache().stats() : cuda::memory_stats(device.index);
}
void reset_memory_peak(Device device) {
  device.type == DeviceType::kCpu ? cache().reset_peak() : cuda::reset_memory_peak(device.index);
}
void release_cached_memory(Device device) {
  device.type == DeviceType::kCpu ? cache().release() : cuda::release_cached_memory(device.index);
}

}  // namespace coluber
