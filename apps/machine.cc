#include "apps/machine.h"

#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "apps/library_versions.h"
#include "coluber/context.h"

namespace coluber::apps {
namespace {

std::string first_line(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

// "32K" -> 32768
std::int64_t parse_size(const std::string& text) {
  char* end = nullptr;
  const std::int64_t value = std::strtoll(text.c_str(), &end, 10);
  switch (end == nullptr ? '\0' : *end) {
    case 'K': return value << 10;
    case 'M': return value << 20;
    case 'G': return value << 30;
    default: return value;
  }
}

// A field of /proc/meminfo or /proc/self/status, both in kB.
std::int64_t proc_field_bytes(const std::string& path, const std::string& field) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    if (line.compare(0, field.size() + 1, field + ":") == 0) {
      return std::strtoll(line.c_str() + field.size() + 1, nullptr, 10) * 1024;
    }
  }
  return 0;
}

// cgroup v2 or v1; 0 when there is no limit.
std::int64_t cgroup_limit_bytes() {
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    const std::string line = first_line(path);
    if (!line.empty() && std::isdigit(static_cast<unsigned char>(line.front()))) {
      const std::int64_t limit = std::strtoll(line.c_str(), nullptr, 10);
      if (limit > 0 && limit < (std::int64_t{1} << 60)) return limit;  // v1 writes "unlimited" as about 2^63
    }
  }
  return 0;
}

}  // namespace

std::string cpu_model() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.compare(0, 10, "model name") == 0) {
      const std::size_t colon = line.find(':');
      if (colon != std::string::npos && colon + 2 < line.size()) return line.substr(colon + 2);
    }
  }
  utsname names{};
  return uname(&names) == 0 ? names.machine : "unknown";
}

std::vector<std::pair<std::string, std::int64_t>> cache_sizes_bytes() {
  std::vector<std::pair<std::string, std::int64_t>> caches;
  for (int index = 0; index < 8; ++index) {
    const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/";
    const std::string size = first_line(folder + "size"), type = first_line(folder + "type");
    if (size.empty() || type == "Instruction") continue;
    caches.emplace_back("L" + first_line(folder + "level") + (type == "Data" ? "d" : ""), parse_size(size));
  }
  return caches;
}

std::int64_t total_memory_bytes() {
  const std::int64_t total = proc_field_bytes("/proc/meminfo", "MemTotal");
  const std::int64_t limit = cgroup_limit_bytes();
  return limit > 0 ? std::min(total, limit) : total;
}

std::int64_t available_memory_bytes(Device device) {
  if (!device.is_cpu()) return cuda_device_info(device.index).free_bytes;
  return std::min(proc_field_bytes("/proc/meminfo", "MemAvailable"), total_memory_bytes());
}

std::int64_t peak_rss_bytes() {
  rusage usage{};
  return getrusage(RUSAGE_SELF, &usage) == 0 ? static_cast<std::int64_t>(usage.ru_maxrss) * 1024 : 0;
}

std::int64_t peak_memory_bytes(Device device) {
  if (device.is_cpu()) return peak_rss_bytes();
  const MemoryStats stats = memory_stats(device);  // caches of a GPU give nothing back
  return stats.live_bytes + stats.cached_bytes;
}

std::int64_t current_rss_bytes() {
  return proc_field_bytes("/proc/self/status", "VmRSS");
}

Json gpu_json(int index) {
  const CudaDeviceInfo info = cuda_device_info(index);
  const auto version = [](int number) {
    return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
  };
  return {{"device", device_name({DeviceType::kCuda, index})},
          {"name", info.name},
          {"compute_capability",
           std::to_string(info.compute_capability / 10) + "." + std::to_string(info.compute_capability % 10)},
          {"multiprocessors", info.multiprocessors},
          {"memory_bytes", info.total_bytes},
          {"memory_available_bytes", info.free_bytes},
          {"l2_bytes", info.l2_bytes},
          {"cuda", version(info.runtime_version)},
          {"driver_cuda", version(info.driver_version)}};
}

std::vector<std::pair<std::string, std::string>> library_versions() {
  std::vector<std::pair<std::string, std::string>> versions;
  std::istringstream words(COLUBER_LIBRARY_VERSIONS);  // "name version name version ..."
  for (std::string name, version; words >> name >> version;) versions.emplace_back(name, version);
  return versions;
}

}  // namespace coluber::apps
