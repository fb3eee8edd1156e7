// Devices and streams of the CUDA runtime.
#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>
#include <optional>

#include "core/check.h"
#include "core/cuda.h"
#include "core/cuda/check.h"
#include "core/cuda/forked.h"
#include "core/cuda/graph.h"

namespace coluber {
namespace {

constexpr int kOldestCapability = 80;  // bf16 arithmetic, cp.async

struct Devices {
  int count = 0;
  std::string reason;  // when there are none
};

std::atomic<bool> forked{false};  // off a process that had begun to use GPUs

Devices find_devices() {
  Devices found;
  const cudaError_t result = cudaGetDeviceCount(&found.count);
  if (result == cudaSuccess && found.count > 0) {
    found.count = std::min(found.count, cuda::kMaxDevices);
    pthread_atfork(nullptr, nullptr, [] { forked = true; });
    return found;
  }
  cudaGetLastError();
  found.count = 0;
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (result == cudaErrorInsufficientDriver && driver > 0) {
    found.reason = join("the NVIDIA driver is too old: expected CUDA ", runtime / 1000, ".", runtime % 1000 / 10,
                        " or newer, got ", driver / 1000, ".", driver % 1000 / 10, " (update the driver)");
  } else if (driver == 0) {
    found.reason = "no NVIDIA driver was found";
  } else {
    found.reason = join("no NVIDIA GPU can be used (", cudaGetErrorString(result), ")");
  }
  return found;
}

const Devices& devices() {
  static const Devices found = find_devices();
  static const Devices none{0,
                            "this process was forked off one that had begun to use GPUs, which CUDA does not survive "
                            "(start it by spawn)"};
  return forked ? none : found;
}

}  // namespace

int cuda_device_count() {
  return devices().count;
}

std::string cuda_unavailable_reason() {
  return devices().reason;
}

CudaDeviceInfo cuda_device_info(int index) {
  cuda::require_device(index);
  const cuda::DeviceScope scope(index);
  cudaDeviceProp properties{};
  cuda::check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  std::size_t free = 0, total = 0;
  cuda::check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  CudaDeviceInfo info;
  info.name = properties.name;
  info.compute_capability = properties.major * 10 + properties.minor;
  info.multiprocessors = properties.multiProcessorCount;
  cuda::check(cudaDriverGetVersion(&info.driver_version), "cudaDriverGetVersion");
  cuda::check(cudaRuntimeGetVersion(&info.runtime_version), "cudaRuntimeGetVersion");
  info.total_bytes = static_cast<std::int64_t>(total);
  info.free_bytes = static_cast<std::int64_t>(free);
  info.l2_bytes = properties.l2CacheSize;
  return info;
}

namespace cuda {
namespace {

thread_local std::array<std::optional<void*>, kMaxDevices> thread_streams;

// The stream of whoever names none: one for the process, so that threads see each other's tensors.
void* common_stream(int device) {
  static std::array<void*, kMaxDevices> streams{};
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  void*& stream = streams[static_cast<std::size_t>(device)];
  if (stream == nullptr) {
    const DeviceScope scope(device);
    cudaStream_t made = nullptr;
    check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    stream = made;
  }
  return stream;
}

}  // namespace

bool is_forked() {
  return forked;
}

void check(cudaError_t result, std::string_view what) {
  if (result == cudaSuccess) return;
  cudaGetLastError();  // the next launch is not to be blamed for this one
  refuse(ErrorCode::kDevice, "cuda",
         join(what, ": expected success, got ", cudaGetErrorName(result), ", ", cudaGetErrorString(result)));
}

void require_device(int device) {
  const Devices& found = devices();
  const auto name = [&] { return device_name({DeviceType::kCuda, device}); };  // for a refusal: this is on every path
  if (found.count == 0) {
    refuse(ErrorCode::kUnsupported, "device", join(name(), ": ", found.reason, "; the cpu works without one"));
  }
  if (device < 0 || device >= found.count) {
    refuse_value(ErrorCode::kUnsupported, "device", "index",
                 found.count == 1 ? "cuda:0, the only one" : join("cuda:0 to cuda:", found.count - 1), name());
  }
  static std::array<std::atomic<int>, kMaxDevices> capabilities{};
  std::atomic<int>& known = capabilities[static_cast<std::size_t>(device)];
  int capability = known.load(std::memory_order_relaxed);
  if (capability == 0) {
    int major = 0, minor = 0;
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
    check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "cudaDeviceGetAttribute");
    capability = major * 10 + minor;
    known.store(capability, std::memory_order_relaxed);
  }
  if (capability < kOldestCapability) {
    refuse_value(ErrorCode::kUnsupported, "device", join("compute capability of ", name()), "8.0 or newer",
                 join(capability / 10, ".", capability % 10), "use the cpu");
  }
}

Stream current_stream(int device) {
  const std::optional<void*>& own = thread_streams[static_cast<std::size_t>(device)];
  return {device, own.has_value() ? *own : common_stream(device)};
}

void set_current_stream(const Stream& stream) {
  require_device(stream.device);
  thread_streams[static_cast<std::size_t>(stream.device)] = stream.handle;
}

void synchronize(int device) {
  const DeviceScope scope(device);
  check(cudaStreamSynchronize(handle_of(current_stream(device))), "synchronize");
}

Event::Event(const Stream& stream) {
  const DeviceScope scope(stream.device);
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
  handle_ = event;
  check(cudaEventRecord(event, handle_of(stream)), "cudaEventRecord");
}

Event::~Event() {
  cudaEventDestroy(static_cast<cudaEvent_t>(handle_));  // goes when it has been reached
}

// An event that is part of a graph in the making, or of a device that is lost, is waited for by nobody.
bool Event::passed() const {
  const cudaError_t result = cudaEventQuery(static_cast<cudaEvent_t>(handle_));
  if (result != cudaSuccess) cudaGetLastError();
  return result != cudaErrorNotReady;
}

void Event::wait() const {
  check(cudaEventSynchronize(static_cast<cudaEvent_t>(handle_)), "cudaEventSynchronize");
}

void order(const Stream& earlier, const Stream& later) {
  if (earlier.device == later.device && earlier.handle == later.handle) return;
  order(Event(earlier), later);
}

void order(const Event& reached, const Stream& later) {
  const DeviceScope scope(later.device);
  check(cudaStreamWaitEvent(handle_of(later), static_cast<cudaEvent_t>(reached.handle()), 0), "cudaStreamWaitEvent");
}

OwnStream::OwnStream(int device) {
  require_device(device);
  const DeviceScope scope(device);
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  stream_ = {device, stream};
}

OwnStream::~OwnStream() {
  cudaStreamSynchronize(handle_of(stream_));  // an error is of the work, and was or will be told there
  drop_memory_of(stream_);
  cudaStreamDestroy(handle_of(stream_));
}

}  // namespace cuda
}  // namespace coluber
