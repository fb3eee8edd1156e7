// A tiny training that every test of this folder can afford, and comparisons of what came out.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "coluber/train.h"
#include "core/rng.h"
#include "tests/support/files.h"
#include "tests/support/models.h"

namespace coluber::testing {

inline ModelConfig small_config() {
  ModelConfig config;
  config.d_model = 24;
  config.n_layer = 2;
  config.vocab_size = 40;
  config.mixer.d_state = 8;
  return config;
}

// Each id follows from the one before, so that there is something to learn; a reset in the middle of every row.
inline Batch small_batch(std::int64_t index, std::int64_t b = 3, std::int64_t l = 33) {
  Batch batch{Tensor::empty({b, l}, DType::kI32), Tensor::empty({b, l}, DType::kI32), {}};
  batch.sequences.resets = Tensor::zeros({b, l}, DType::kU8);
  for (std::int64_t row = 0; row < b; ++row) {
    const Rng rng(11, static_cast<std::uint64_t>(index * b + row));
    auto id = static_cast<std::int32_t>(rng.below(0, 40));
    for (std::int64_t t = 0; t < l; ++t) {
      batch.ids.data<std::int32_t>()[row * l + t] = id;
      id = (id * 7 + 3) % 40;
      batch.targets.data<std::int32_t>()[row * l + t] = id;
    }
    batch.sequences.resets.data<std::uint8_t>()[row * l + l / 2] = 1;
  }
  return batch;
}

inline TrainOptions small_options(std::int64_t steps, const std::string& out = {}) {
  TrainOptions options;
  options.max_steps = steps;
  options.schedule.lr = 3e-3;
  options.schedule.warmup_steps = 3;
  options.eval_batches = 2;
  options.seed = 4;
  options.out = out;
  return options;
}

inline Batches small_batches() {
  return [](std::int64_t index) { return small_batch(index); };
}
inline Batches small_heldout() {
  return [](std::int64_t index) { return small_batch(1'000'000 + index); };
}

// The sentence that `work` is refused with.
template <class Work>
std::string refusal(ErrorCode code, Work&& work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "was not refused";
  return {};
}

}  // namespace coluber::testing
