// What the library asks of an NVIDIA GPU below its kernels: is there one, memory, copies, streams.
//
// Work on a GPU is asynchronous and runs in the order of a stream. Every host thread has a current stream per device
// (StreamScope, coluber/device.h): tensors are allocated, copied and freed in its order, and ops hand it to their
// kernels. Memory that one stream gave back is only handed out again to the same stream, so no reuse can overtake work
// that is still reading it. A tensor that goes from one stream to another must be waited for by whoever hands it over.
//
// Implemented by core/cuda/ where the build has CUDA, by core/no_cuda/ elsewhere: there device_count() is 0 and all
// that needs a device refuses with kUnsupported.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "coluber/context.h"
#include "coluber/device.h"
#include "coluber/dtype.h"
#include "coluber/tensor.h"

namespace coluber::cuda {

inline constexpr int kMaxDevices = 64;  // that a process can use

struct Stream {
  int device = 0;
  void* handle = nullptr;  // a cudaStream_t
};

// Refuses with kUnsupported and the reason when there is no such device.
void require_device(int device);
Stream current_stream(int device);
void set_current_stream(const Stream& stream);
// Waits for all work of the current stream.
void synchronize(int device);

// `later` waits for all that `earlier` has been given so far; the host does not.
void order(const Stream& earlier, const Stream& later);
// A place in the work of a stream: where it stands when this is made.
class Event {
 public:
  explicit Event(const Stream& stream);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  bool passed() const;  // all work before it is done; does not wait
  void wait() const;    // until it is
  void* handle() const { return handle_; }

 private:
  void* handle_ = nullptr;  // a cudaEvent_t
};

// The same for all up to `reached`.
void order(const Event& reached, const Stream& later);

// A stream of one's own, and so memory of its own, which goes when the stream does, after its work.
class OwnStream {
 public:
  explicit OwnStream(int device);
  ~OwnStream();
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  const Stream& stream() const { return stream_; }

 private:
  Stream stream_;
};

// 256-byte aligned, uninitialised. Throws kOutOfMemory: bytes asked for, free and in all. `dtype` is of what it will
// hold, for allocators that ask.
std::shared_ptr<void> allocate(std::int64_t size_bytes, int device, DType dtype = DType::kU8);

// Where memory comes from instead of the cache, for programs that have an allocator of their own. What it gives must be
// safe to write on the current stream, and what is given back may still be read there.
class Allocator {
 public:
  virtual ~Allocator() = default;
  virtual std::shared_ptr<void> allocate(std::int64_t size_bytes, int device, DType dtype) = 0;
};

// While it lives, this thread allocates on GPUs from `allocator`.
class AllocatorScope {
 public:
  explicit AllocatorScope(Allocator& allocator);
  ~AllocatorScope();
  AllocatorScope(const AllocatorScope&) = delete;
  AllocatorScope& operator=(const AllocatorScope&) = delete;

 private:
  [[maybe_unused]] Allocator* before_;  // unused where the build has no CUDA
};

MemoryStats memory_stats(int device);
void reset_memory_peak(int device);
void release_cached_memory(int device);

// `from` or `to` (or both) on a GPU. Copies from the CPU return when `from` may be changed; copies to it when the bytes
// are there.
void copy_bytes(void* to, Device to_device, const void* from, Device from_device, std::int64_t bytes);
void fill_bytes(void* to, int device, std::uint8_t value, std::int64_t bytes);

// Memory of the host that a device can read and write by itself. Uninitialised; throws kOutOfMemory.
std::shared_ptr<void> allocate_page_locked(std::int64_t size_bytes, int device);
// A copy in the order of `stream`, which the host does not wait for. What is on the host is page-locked, and stays as
// it is until the copy is done.
void queue_copy(const Stream& stream, void* to, const void* from, std::int64_t bytes);

// Work that is recorded once and started again with one call: for steps of many small kernels, whose starts would take
// longer than they do. What it reads and writes must stay where it was.
class Graph {
 public:
  // Calls `work` on `own` to be recorded, not to run. It has run there before: libraries have made their plans, memory
  // is found. Tensors that `work` makes live in memory of that stream, which keeps all that it has from now on, and
  // change with every launch.
  Graph(const OwnStream& own, const std::function<void()>& work);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void launch() const;  // on the current stream

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Same shape, one device, any strides and dtypes; rounds like Tensor::copy_from.
void copy_tensor(const Tensor& to, const Tensor& from);
void fill_tensor(const Tensor& to, double value);

}  // namespace coluber::cuda
