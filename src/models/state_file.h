// A State as a safetensors file: layers.N.conv and layers.N.ssm. A file may hold more, as those of sessions do.
#pragma once

#include <string>

#include "coluber/state.h"
#include "io/safetensors.h"

namespace coluber {

TensorMap state_tensors(const State& state);  // share the state's memory
StringMap state_metadata(const State& state);

// A copy. `path` stands for the file in refusals; throws kCorruptFile.
State state_of_file(const std::string& path, const SafetensorsFile& file);

}  // namespace coluber
