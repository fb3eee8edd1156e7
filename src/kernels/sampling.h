// sample_rows: the next id of each row of logits, drawn on the device that has them; steps 2 to 8 of
// coluber/generate.h, whose Sampler is the meaning.
//
// Weights exp((logit - largest) / temperature) are whole numbers of 2^-44, so that sums do not depend on their order:
// the id is the Sampler's but where its target lies within v 2^-44 of the border between two ids. Called by
// ops/sampling.cc.
#pragma once

#include <cstdint>

#include "core/cuda.h"

namespace coluber {

// How a row draws, in memory of the device.
struct SamplingRow {
  double temperature = 1, top_p = 1, min_p = 0, repetition_penalty = 1;
  std::int64_t top_k = 0;  // 0: off
  std::uint64_t seed = 0, stream = 0;
  std::uint64_t num_drawn = 0;  // one more after each draw
};

struct SampleRowsParams {
  const float* logits = nullptr;  // (rows,v), `ld` apart
  std::int64_t rows = 0, v = 0, ld = 0;
  SamplingRow* how = nullptr;        // (rows)
  std::uint8_t* seen = nullptr;      // (rows,v): ids of the context, 1; what is drawn becomes one
  std::uint64_t* weights = nullptr;  // (rows,v), scratch
  std::int32_t* ids = nullptr;       // (rows); -1 and nothing drawn where a logit is NaN or infinity, or none is finite
};

namespace cuda {

inline constexpr std::int64_t kMostSampledIds = (std::int64_t{1} << 19) - 1;  // v: sums stay below 2^63

void sample_rows(const Stream& stream, const SampleRowsParams& params);

}  // namespace cuda
}  // namespace coluber
