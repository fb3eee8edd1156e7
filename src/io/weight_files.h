// The weights of a model folder: one file, or shards with an index, as safetensors or torch's .bin.
#pragma once

#include <string>
#include <vector>

#include "io/tensor_map.h"

namespace coluber {

struct WeightFiles {
  TensorMap tensors;
  std::vector<std::string> names;  // of the files
  std::vector<std::string> warnings;
};

// Looks for model.safetensors, model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index.json, and then
// for a single *.safetensors or *.bin of another name, in this order. Shards must hold exactly the tensors that the
// index promises for each.
WeightFiles read_weight_files(const std::string& folder);

}  // namespace coluber
