// Where a tensor lives, and what GPUs there are.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace coluber {

enum class DeviceType : std::uint8_t { kCpu, kCuda };

struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;

  bool is_cpu() const { return type == DeviceType::kCpu; }
  friend bool operator==(const Device&, const Device&) = default;
};

inline constexpr Device kCpuDevice{};

// "cpu", "cuda:0"
inline std::string device_name(Device device) {
  return device.is_cpu() ? "cpu" : "cuda:" + std::to_string(device.index);
}

// "cpu", "cuda" (the first), "cuda:1", or "auto": the first GPU where one can be used, else the CPU. Throws
// kInvalidArgument on other words and kUnsupported, with the reason, on a device that cannot be used.
Device device_from_name(std::string_view name);

// GPUs that this build can use here; 0 without a driver or where the build has no CUDA. Never throws.
int cuda_device_count();
// One sentence: why cuda_device_count() is 0. Empty where it is not.
std::string cuda_unavailable_reason();

struct CudaDeviceInfo {
  std::string name;            // "NVIDIA H100 80GB HBM3"
  int compute_capability = 0;  // 90 for 9.0
  int multiprocessors = 0;
  int driver_version = 0, runtime_version = 0;   // 13000 for 13.0
  std::int64_t total_bytes = 0, free_bytes = 0;  // device memory
  std::int64_t l2_bytes = 0;
};
CudaDeviceInfo cuda_device_info(int index);

// Waits until all work that this thread has given to the device is done. Nothing to do on the CPU.
void synchronize(Device device);

// While it lives, this thread's work on the device goes to `stream`, a cudaStream_t (torch: stream.cuda_stream).
// Without one, all threads share one stream of ours per device. Tensors made under one stream and used under another
// must be waited for in between.
class StreamScope {
 public:
  StreamScope(Device device, void* stream);
  ~StreamScope();
  StreamScope(const StreamScope&) = delete;
  StreamScope& operator=(const StreamScope&) = delete;

 private:
  Device device_;
  void* before_ = nullptr;
};

}  // namespace coluber
