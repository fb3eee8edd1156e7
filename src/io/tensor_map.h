// What a file of weights holds: tensors by name, in the order of their names.
#pragma once

#include <map>
#include <string>

#include "coluber/tensor.h"

namespace coluber {

using TensorMap = std::map<std::string, Tensor>;
using StringMap = std::map<std::string, std::string>;  // metadata beside them

}  // namespace coluber
