// A golden file taken apart into its cases.
#pragma once

#include <string>
#include <vector>

#include "io/safetensors.h"
#include "selftest/experiment.h"

namespace coluber::selftest {

// Cases in the order of the file, or of their names where it has none. Empty when this is no golden file (the
// dequantised weights beside a .gguf, for example). `folder` is where checkpoints are looked for.
// Throws kCorruptFile on a golden file that contradicts itself.
std::vector<GoldenCase> golden_cases(const SafetensorsFile& file, const std::string& folder);

}  // namespace coluber::selftest
