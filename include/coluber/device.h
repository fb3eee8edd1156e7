// Where a tensor lives.
#pragma once

#include <cstdint>
#include <string>

namespace coluber {

enum class DeviceType : std::uint8_t { kCpu, kCuda };

struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;

  friend bool operator==(const Device&, const Device&) = default;
};

// "cpu", "cuda:0"
inline std::string device_name(Device device) {
  return device.type == DeviceType::kCpu ? "cpu" : "cuda:" + std::to_string(device.index);
}

}  // namespace coluber
