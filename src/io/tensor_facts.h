// What the tensors of a Mamba-1 language model say about its config.
#pragma once

#include <cstdint>
#include <string>

#include "coluber/config.h"
#include "io/tensor_map.h"

namespace coluber {

struct Fact {
  std::int64_t value = 0;
  std::string source;  // "columns of backbone.layers.0.mixer.out_proj.weight"
};

struct TensorFacts {
  Fact d_model, n_layer, vocab_rows, d_inner, d_state, dt_rank, d_conv;
  Fact bias, conv_bias, rms_norm, bidirectional;  // 0 or 1
  bool has_head = false;                          // lm_head.weight
};

// Throws kUnsupported naming what it is when the tensors are those of another kind of model, kCorruptFile when layers
// or tensors are missing. `path` opens the sentence of a refusal.
TensorFacts read_tensor_facts(const std::string& path, const TensorMap& tensors);

}  // namespace coluber
