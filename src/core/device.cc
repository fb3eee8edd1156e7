#include "coluber/device.h"

#include "core/check.h"
#include "core/cuda.h"

namespace coluber {

Device device_from_name(std::string_view name) {
  if (name == "cpu") return kCpuDevice;
  if (name == "auto") return cuda_device_count() > 0 ? Device{DeviceType::kCuda, 0} : kCpuDevice;
  Device device{DeviceType::kCuda, 0};
  constexpr std::string_view kPrefix = "cuda:";
  if (name != "cuda") {
    const std::string_view digits = name.starts_with(kPrefix) ? name.substr(kPrefix.size()) : std::string_view{};
    if (digits.empty() || digits.size() > 4 || digits.find_first_not_of("0123456789") != std::string_view::npos) {
      refuse_value(ErrorCode::kInvalidArgument, "device", "name", "cpu, cuda, cuda:N or auto", name);
    }
    device.index = std::stoi(std::string(digits));
  }
  cuda::require_device(device.index);
  return device;
}

void synchronize(Device device) {
  if (!device.is_cpu()) cuda::synchronize(device.index);
}

StreamScope::StreamScope(Device device, void* stream) : device_(device) {
  if (device.is_cpu()) return;
  before_ = cuda::current_stream(device.index).handle;
  cuda::set_current_stream({device.index, stream});
}

StreamScope::~StreamScope() {
  if (!device_.is_cpu()) cuda::set_current_stream({device_.index, before_});
}

}  // namespace coluber
