// Device memory: a cache of blocks per stream in front of cudaMalloc, which waits for the device and is slow.
#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <string_view>
#include <utility>

#include "core/block_cache.h"
#include "core/check.h"
#include "core/cuda.h"
#include "core/cuda/check.h"
#include "core/cuda/forked.h"

namespace coluber::cuda {
namespace {

class DeviceCache final : public BlockCache {
 public:
  // Nothing goes back while there is enough: cudaFree waits for the device, and other work on it is rarely ours to
  // spare.
  explicit DeviceCache(int device) : BlockCache(0, false), device_(device) {}
  ~DeviceCache() override {
    if (!is_forked()) release();
  }

 private:
  void* system_allocate(std::int64_t bytes) override {
    const DeviceScope scope(device_);
    void* block = nullptr;
    const cudaError_t result = cudaMalloc(&block, static_cast<std::size_t>(bytes));
    if (result == cudaErrorMemoryAllocation) {  // the caller may find some elsewhere
      cudaGetLastError();
      return nullptr;
    }
    check(result, "cudaMalloc");
    return block;
  }

  // cudaFree waits for the device: nothing of any stream still reads the block. Does not throw: called by destructors,
  // also at the end of a process, when the driver may be gone and all memory with it.
  void system_free(void* block, std::int64_t) override {
    int before = 0;
    if (cudaGetDevice(&before) != cudaSuccess || cudaSetDevice(device_) != cudaSuccess) return;
    cudaFree(block);
    cudaSetDevice(before);
  }

  const int device_;
};

// Never destroyed: tensors in static storage may outlive them, and the driver may be gone before. A cache lives until
// its stream is dropped and the last of its blocks is back.
struct Caches {
  std::mutex mutex;
  std::map<std::pair<int, void*>, std::shared_ptr<DeviceCache>> of_stream;
  std::set<DeviceCache*> kept;  // of graphs: their blocks are written at every launch

  std::shared_ptr<DeviceCache> find(int device, void* stream) {
    const std::lock_guard lock(mutex);
    std::shared_ptr<DeviceCache>& cache = of_stream[{device, stream}];
    if (cache == nullptr) cache = std::make_shared<DeviceCache>(device);
    return cache;
  }

  void release(DeviceCache& cache) {
    const std::lock_guard lock(mutex);
    if (kept.count(&cache) == 0) cache.release();
  }

  template <class F>
  void for_each(int device, F&& f) {
    const std::lock_guard lock(mutex);
    for (auto& [key, cache] : of_stream) {
      if (key.first == device) f(*cache);
    }
  }
};

Caches& caches() {
  static Caches& instance = *new Caches;
  return instance;
}

thread_local Allocator* thread_allocator = nullptr;  // null: the caches

// COLUBER_CUDA_CACHE=off: each tensor is memory of its own, of exactly its size, so that compute-sanitizer sees what
// reads beyond it or after it is gone. A block of the cache is up to an eighth larger (512 bytes at least) and stays.
bool keeps_blocks() {
  static const bool keeps = [] {
    const char* text = std::getenv("COLUBER_CUDA_CACHE");
    const std::string_view wanted = text == nullptr ? "on" : text;
    if (wanted != "on" && wanted != "off") {
      refuse_value(ErrorCode::kInvalidArgument, "memory", "COLUBER_CUDA_CACHE", "on or off", wanted);
    }
    return wanted == "on";
  }();
  return keeps;
}

[[noreturn]] void refuse_out_of_memory(std::int64_t size_bytes, int device) {
  const CudaDeviceInfo info = cuda_device_info(device);
  const MemoryStats stats = memory_stats(device);
  refuse(ErrorCode::kOutOfMemory, "memory",
         join("allocation on ", device_name({DeviceType::kCuda, device}), ": expected ", size_bytes,
              " bytes free, got ", info.free_bytes, " of ", info.total_bytes, " (", stats.live_bytes,
              " bytes are in use by this process; a smaller batch or length needs less)"));
}

}  // namespace

AllocatorScope::AllocatorScope(Allocator& allocator) : before_(thread_allocator) {
  thread_allocator = &allocator;
}

AllocatorScope::~AllocatorScope() {
  thread_allocator = before_;
}

std::shared_ptr<void> allocate(std::int64_t size_bytes, int device, DType dtype) {
  if (thread_allocator != nullptr) return thread_allocator->allocate(size_bytes, device, dtype);
  require_device(device);
  const std::shared_ptr<DeviceCache> cache = caches().find(device, current_stream(device).handle);
  const std::int64_t bytes = keeps_blocks() ? cache->size_class(size_bytes) : std::max<std::int64_t>(size_bytes, 1);
  void* block = bytes > 0 ? cache->take(bytes) : nullptr;
  if (block == nullptr && bytes > 0) {  // caches may keep what is missing
    release_cached_memory(device);
    block = cache->take(bytes);
  }
  if (block == nullptr) refuse_out_of_memory(size_bytes, device);
  return std::shared_ptr<void>(block, [cache, bytes](void* p) {
    if (is_forked()) return;  // a child's copy of the handle: the memory is its parent's
    cache->give(p, bytes);
    if (!keeps_blocks()) caches().release(*cache);
  });
}

MemoryStats memory_stats(int device) {
  require_device(device);
  MemoryStats sum;
  caches().for_each(device, [&](DeviceCache& cache) {
    const MemoryStats stats = cache.stats();
    sum.live_bytes += stats.live_bytes;
    sum.peak_bytes += stats.peak_bytes;
    sum.cached_bytes += stats.cached_bytes;
  });
  return sum;
}

void reset_memory_peak(int device) {
  require_device(device);
  caches().for_each(device, [](DeviceCache& cache) { cache.reset_peak(); });
}

void release_cached_memory(int device) {
  require_device(device);
  caches().for_each(device, [](DeviceCache& cache) {
    if (caches().kept.count(&cache) == 0) cache.release();
  });
}

void keep_memory_of(const Stream& stream) {
  const std::shared_ptr<DeviceCache> cache = caches().find(stream.device, stream.handle);
  const std::lock_guard lock(caches().mutex);
  caches().kept.insert(cache.get());
}

void drop_memory_of(const Stream& stream) {
  const std::shared_ptr<DeviceCache> cache = caches().find(stream.device, stream.handle);  // outlives the lock
  const std::lock_guard lock(caches().mutex);
  caches().kept.erase(cache.get());
  caches().of_stream.erase({stream.device, stream.handle});  // tensors that still live hold the cache
}

namespace {

// The driver reads page-locked memory when the stream gets there; any other it has read when the call returns.
bool is_page_locked(const void* memory) {
  cudaPointerAttributes attributes{};
  check(cudaPointerGetAttributes(&attributes, memory), "cudaPointerGetAttributes");
  return attributes.type == cudaMemoryTypeHost;
}

}  // namespace

void copy_bytes(void* to, Device to_device, const void* from, Device from_device, std::int64_t bytes) {
  if (bytes == 0) return;
  const int device = to_device.is_cpu() ? from_device.index : to_device.index;
  const DeviceScope scope(device);
  const cudaStream_t stream = handle_of(current_stream(device));
  // Between two devices either stream waits for the other: the copy for what writes `from`, and what uses the memory of
  // `from` next for the copy.
  const bool between_devices = !to_device.is_cpu() && !from_device.is_cpu() && to_device.index != from_device.index;
  if (between_devices) order(current_stream(from_device.index), current_stream(device));
  check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDefault, stream), "copy");
  if (between_devices) order(current_stream(device), current_stream(from_device.index));
  if (to_device.is_cpu()) check(cudaStreamSynchronize(stream), "copy to the cpu");
  if (from_device.is_cpu() && is_page_locked(from)) check(cudaStreamSynchronize(stream), "copy from the cpu");
}

std::shared_ptr<void> allocate_page_locked(std::int64_t size_bytes, int device) {
  require_device(device);
  const DeviceScope scope(device);
  void* block = nullptr;
  const cudaError_t result = cudaMallocHost(&block, static_cast<std::size_t>(size_bytes));
  if (result == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    refuse(ErrorCode::kOutOfMemory, "memory",
           join("page-locked memory of the host: expected ", size_bytes, " bytes, got none"));
  }
  check(result, "cudaMallocHost");
  return std::shared_ptr<void>(block, [](void* p) {
    if (!is_forked()) cudaFreeHost(p);
  });
}

void queue_copy(const Stream& stream, void* to, const void* from, std::int64_t bytes) {
  if (bytes == 0) return;
  const DeviceScope scope(stream.device);
  check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDefault, handle_of(stream)), "copy");
}

void fill_bytes(void* to, int device, std::uint8_t value, std::int64_t bytes) {
  if (bytes == 0) return;
  const DeviceScope scope(device);
  check(cudaMemsetAsync(to, value, static_cast<std::size_t>(bytes), handle_of(current_stream(device))), "fill");
}

}  // namespace coluber::cuda
