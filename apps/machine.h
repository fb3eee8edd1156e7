// Facts about the machine and this process, for `info`, `bench` and memory estimates.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "apps/cli.h"
#include "coluber/device.h"

namespace coluber::apps {

std::string cpu_model();                                                // "AMD EPYC ..." or the architecture
std::vector<std::pair<std::string, std::int64_t>> cache_sizes_bytes();  // {"L1d", 32768}, {"L2", ...}; may be empty
std::int64_t total_memory_bytes();                                      // of the machine or, when lower, of the cgroup
std::int64_t available_memory_bytes(Device device = kCpuDevice);
std::int64_t peak_rss_bytes();  // most memory this process ever held
std::int64_t current_rss_bytes();
// {"device": "cuda:0", "name": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0", "multiprocessors": 132, ...}
Json gpu_json(int index);
// Most memory that this process needed where its tensors are: of a GPU what its caches hold, else of the machine.
std::int64_t peak_memory_bytes(Device device);
// Libraries this program was built with: {"oneDNN", "2.6.3"}, {"SentencePiece", "0.1.97"}, ...
std::vector<std::pair<std::string, std::string>> library_versions();

}  // namespace coluber::apps
