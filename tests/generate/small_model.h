// A small model of bytes with random weights, large enough that every kernel has more than one vector to do.
#pragma once

#include <numeric>
#include <vector>

#include "coluber/generate.h"

namespace coluber::testing {

inline ModelConfig small_config(std::int64_t vocab_size = 256) {
  ModelConfig config;
  config.d_model = 48;
  config.n_layer = 2;
  config.vocab_size = vocab_size;
  config.tie_embeddings = false;  // a tied model of random weights repeats its last token
  return config;
}

inline Model small_model(DType dtype = DType::kF32, std::int64_t vocab_size = 256) {
  return Model::create(small_config(vocab_size), 5, dtype);
}

// Ids that repeat nothing.
inline std::vector<std::int32_t> some_ids(std::int64_t count, std::int32_t from = 1) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < count; ++i) ids.push_back(static_cast<std::int32_t>((from + 97 * i + i * i / 7) % 256));
  return ids;
}

inline SamplingOptions drawing(std::uint64_t seed = 3) {
  SamplingOptions options;
  options.temperature = 0.3;  // logits of a random head are close together
  options.seed = seed;
  return options;
}

inline std::vector<std::int32_t> draw(Context& ctx, Session& session, int count) {
  std::vector<std::int32_t> ids;
  for (int i = 0; i < count; ++i) ids.push_back(session.next(ctx));
  return ids;
}

}  // namespace coluber::testing
