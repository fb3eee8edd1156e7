// write_seeds DIR: the seeds of every target, in a folder for each.
#include <filesystem>
#include <fstream>

#include "tests/fuzz/targets.h"

int main(int argc, char** argv) {
  using namespace coluber::testing;
  if (argc != 2) return 2;
  const std::vector<std::pair<std::string, Seeds>> targets = {{"safetensors", safetensors_seeds()},
                                                              {"torch_bin", torch_bin_seeds()},
                                                              {"config_json", config_json_seeds()},
                                                              {"tokenizer_json", tokenizer_json_seeds()}};
  for (const auto& [target, seeds] : targets) {
    const std::filesystem::path folder = std::filesystem::path(argv[1]) / target;
    std::filesystem::create_directories(folder);
    for (const auto& [name, bytes] : seeds) std::ofstream(folder / name, std::ios::binary) << bytes;
  }
  return 0;
}
