// The golden files inside the program, so that anybody can check it on their machine.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "io/safetensors.h"

namespace coluber::selftest {

struct BuiltinFile {
  std::string name;
  std::span<const unsigned char> bytes;
};

std::vector<BuiltinFile> builtin_files();  // in the order in which they are reported
SafetensorsFile open_builtin(const BuiltinFile& file);

}  // namespace coluber::selftest
