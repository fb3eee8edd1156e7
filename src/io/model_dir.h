// ModelDir: a model folder of one of the public families, opened and made sense of.
//
// Weights: *.safetensors (one file, or shards with model.safetensors.index.json), else pytorch_model.bin (or shards
// with pytorch_model.bin.index.json). The family is decided by config.json's model_type, then by its keys, then by the
// tensors. The config is filled from config.json, and then the tensors decide: sizes are taken from their shapes. Where
// config.json states another number, that is an error naming both numbers and both sources; where a default would have
// applied, the tensors win and a warning says so. Mamba-2, hybrids and others are refused (kUnsupported) by name.
// Names of tensors are left as they are in the files; models/weight_names.h maps them. Called by models and apps.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "coluber/config.h"
#include "io/tensor_map.h"

namespace coluber {

struct ModelDir {
  std::string path;
  std::string config_json;            // the text of config.json
  ModelConfig config;                 // resolved
  TensorMap tensors;                  // views of the mapped files
  std::vector<std::string> files;     // names of the weight files, in order
  std::vector<std::string> warnings;  // one sentence each
};

ModelDir open_model_dir(const std::string& path);

// The config that a config.json alone gives, with the defaults of its family, resolved. `name` stands for the path in
// refusals; sentences about things that were passed over are added to `warnings` when given.
ModelConfig config_from_json(std::string_view text, std::string_view name = "config.json",
                             std::vector<std::string>* warnings = nullptr);

// The text of a config.json that the original library of that layout accepts and that config_from_json reads back.
// Throws kUnsupported for what the layout cannot say (layer norm in `mamba`, for example). What only we know goes where
// those libraries do not look: keys of its own in the Hugging Face layouts (they keep unknown keys), and under
// attn_cfg.coluber in the state-spaces layout (its config class refuses unknown keys, and reads attn_cfg only for
// models with attention). `bidirectional` and a norm_eps other than 1e-5 change what the model computes, so there
// they are top-level keys: the original library must refuse such a model.
std::string write_config_json(const ModelConfig& config, CheckpointLayout layout);

}  // namespace coluber
