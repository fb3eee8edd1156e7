// A build without CUDA: there are no devices, and nothing that needs one can be reached.
#include "core/cuda.h"

#include "core/check.h"

namespace coluber {

int cuda_device_count() {
  return 0;
}

std::string cuda_unavailable_reason() {
  return "this build has no CUDA (configure it where nvcc is)";
}

CudaDeviceInfo cuda_device_info(int index) {
  cuda::require_device(index);
  return {};
}

namespace cuda {

void require_device(int device) {
  refuse_value(ErrorCode::kUnsupported, "device", device_name({DeviceType::kCuda, device}), "a build with CUDA",
               "one without", "configure it where nvcc is, or use the cpu");
}

Stream current_stream(int device) {
  require_device(device);
  return {};
}
void set_current_stream(const Stream& stream) {
  require_device(stream.device);
}
void synchronize(int device) {
  require_device(device);
}
Event::Event(const Stream& stream) {
  require_device(stream.device);
}
Event::~Event() = default;
bool Event::passed() const {
  return true;
}
void Event::wait() const {}
void order(const Event&, const Stream& later) {
  require_device(later.device);
}
OwnStream::OwnStream(int device) {
  require_device(device);
}
OwnStream::~OwnStream() = default;
void order(const Stream& earlier, const Stream&) {
  require_device(earlier.device);
}
std::shared_ptr<void> allocate(std::int64_t, int device, DType) {
  require_device(device);
  return {};
}
AllocatorScope::AllocatorScope(Allocator&) : before_(nullptr) {
  require_device(0);
}
AllocatorScope::~AllocatorScope() = default;
MemoryStats memory_stats(int device) {
  require_device(device);
  return {};
}
void reset_memory_peak(int device) {
  require_device(device);
}
void release_cached_memory(int device) {
  require_device(device);
}
struct Graph::Impl {};
Graph::Graph(const OwnStream& own, const std::function<void()>&) {
  require_device(own.stream().device);
}
Graph::~Graph() = default;
void Graph::launch() const {}
void copy_bytes(void*, Device to_device, const void*, Device from_device, std::int64_t) {
  require_device(to_device.is_cpu() ? from_device.index : to_device.index);
}
void fill_bytes(void*, int device, std::uint8_t, std::int64_t) {
  require_device(device);
}
std::shared_ptr<void> allocate_page_locked(std::int64_t, int device) {
  require_device(device);
  return {};
}
void queue_copy(const Stream& stream, void*, const void*, std::int64_t) {
  require_device(stream.device);
}
void copy_tensor(const Tensor& to, const Tensor&) {
  require_device(to.device().index);
}
void fill_tensor(const Tensor& to, double) {
  require_device(to.device().index);
}

}  // namespace cuda
}  // namespace coluber
