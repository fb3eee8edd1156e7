// Models and comparisons for the laws.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "tests/cuda/cuda.h"
#include "tests/support/models.h"

namespace coluber::testing {

// Wide enough that every product has more than one tile and every scan more than one vector; nothing divides evenly.
inline ModelConfig law_model() {
  ModelConfig config;
  config.d_model = 72;
  config.n_layer = 3;
  config.vocab_size = 101;
  config.mixer.d_state = 16;
  config.mixer.init.dt_max = 1;  // states that forget, and states that do not
  return config;
}

inline Tensor law_ids(const Shape& shape, std::uint64_t seed) {
  return random_ids(shape, law_model().vocab_size, seed);
}

inline Tensor tokens(const Tensor& ids, std::int64_t begin, std::int64_t end) {
  return ids.slice(1, begin, end).contiguous();
}

struct Reading {
  Tensor logits;  // (b,l,v), on the CPU
  State state;    // where the model is
};

// ids read in pieces that end at `ends`; pieces of one token through step when `by_step`.
inline Reading read(Context& ctx, const Model& model, const Tensor& ids, const std::vector<std::int64_t>& ends,
                    bool by_step = false) {
  Reading r;
  const std::int64_t b = ids.size(0);
  r.state = model.make_state(b);
  r.logits = Tensor::empty({b, ids.size(1), model.config().padded_vocab_size()},
                           model.dtype() == DType::kF64 ? DType::kF64 : DType::kF32);
  std::int64_t begin = 0;
  for (const std::int64_t end : ends) {
    const Tensor into = r.logits.slice(1, begin, end);
    if (by_step && end == begin + 1) {
      into.select(1, 0).copy_from(model.step(ctx, ids.select(1, begin).contiguous(), r.state));
    } else {
      ForwardOptions options;
      options.state = &r.state;
      into.copy_from(model.forward(ctx, tokens(ids, begin, end), options).to(kCpuDevice));
    }
    begin = end;
  }
  return r;
}

inline std::vector<std::int64_t> every_token(std::int64_t l) {
  std::vector<std::int64_t> ends;
  for (std::int64_t t = 1; t <= l; ++t) ends.push_back(t);
  return ends;
}

inline void expect_same_bits(const Reading& a, const Reading& b, const std::string& what) {
  EXPECT_TRUE(same_bits(a.logits, b.logits)) << what;
  EXPECT_TRUE(a.state.equals(b.state)) << what;
}

// `error` (max_error, norm_error) of logits and of every layer's state, the largest.
template <class Error>
double worst_error(const Reading& got, const Reading& expected, Error&& error) {
  double worst = error(got.logits, expected.logits);
  for (std::size_t i = 0; i < expected.state.num_layers(); ++i) {
    const LayerState a = got.state.layer(i), b = expected.state.layer(i);
    worst = std::max(worst, error(a.conv.to(kCpuDevice), b.conv.to(kCpuDevice)));
    worst = std::max(worst, error(a.ssm.to(kCpuDevice), b.ssm.to(kCpuDevice)));
  }
  return worst;
}

}  // namespace coluber::testing
