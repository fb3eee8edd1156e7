// Drawing on the device against the Sampler: the same ids, whatever the options.
#include "kernels/sampling.h"

#include <vector>

#include "coluber/generate.h"
#include "generate/generation_batch.h"
#include "ops/sampling.h"
#include "tests/cuda/kernel_test.h"
#include "tests/support/models.h"

namespace coluber::testing {
namespace {

constexpr std::int64_t kRows = 3;

// With ties, and some that are never drawn.
Tensor random_logits(std::int64_t v, std::uint64_t seed) {
  const Tensor logits = random_tensor({kRows, v + 5}, DType::kF32, seed, 6);
  float* x = logits.data<float>();
  for (std::int64_t i = 0; i < logits.numel(); ++i) {
    if (i % 3 == 0) x[i] = std::round(x[i]);
    if (i % 11 == 7) x[i] = -std::numeric_limits<float>::infinity();
    if (i % 13 == 1) x[i] = i % 2 == 0 ? 0.0f : -0.0f;
  }
  return logits;
}

// `draws` ids in a row, each from other logits, the ones drawn before being context.
void expect_ids_of_the_sampler(std::int64_t v, const SamplingOptions& options, int draws) {
  std::vector<Sampler> samplers;
  std::vector<SamplingRow> how;
  std::vector<std::span<const std::int32_t>> seen;
  const std::vector<std::int32_t> context = {0, static_cast<std::int32_t>(v / 2), static_cast<std::int32_t>(v - 1)};
  for (std::int64_t i = 0; i < kRows; ++i) {
    samplers.emplace_back(options, v, static_cast<std::uint64_t>(40 + i)).observe(context);
    how.push_back(sampling_row(options, static_cast<std::uint64_t>(40 + i)));
    seen.emplace_back(context);
  }
  const ops::RowSampler device(kRows, v, kGpu);
  device.set(how, seen);
  const Tensor ids = Tensor::zeros({kRows}, DType::kI32, kGpu);
  for (int t = 0; t < draws; ++t) {
    const Tensor logits = random_logits(v, static_cast<std::uint64_t>(t + 1));
    device.draw(logits.to(kGpu), ids);
    for (std::int64_t i = 0; i < kRows; ++i) {
      const Tensor row = logits.select(0, i);
      const std::int32_t expected = samplers[static_cast<std::size_t>(i)].sample(
          std::span(row.data<float>(), static_cast<std::size_t>(row.numel())));
      ASSERT_EQ(static_cast<std::int32_t>(ids.at({i})), expected) << "v " << v << " draw " << t << " row " << i;
    }
  }
}

class SamplingCuda : public CudaKernel {};

TEST_F(SamplingCuda, IdsOfTheSampler) {
  std::vector<SamplingOptions> all;
  for (const double temperature : {0.0, 0.7, 1.0, 3.0})
    for (const std::int64_t top_k : {0, 1, 7, 50, 700, 100000})
      for (const double top_p : {1.0, 0.9, 0.2, 1e-9})
        for (const double min_p : {0.0, 0.05})
          for (const double penalty : {1.0, 1.3}) all.push_back({temperature, top_k, top_p, min_p, penalty, false, 11});
  for (std::size_t i = 0; i < all.size(); ++i) {
    SCOPED_TRACE(i);
    for (const std::int64_t v : {1, 2, 31, 33, 257, 1500}) expect_ids_of_the_sampler(v, all[i], 4);
    if (i % 7 == 0) expect_ids_of_the_sampler(50277, all[i], 3);
  }
}

TEST_F(SamplingCuda, ManyDraws) {
  expect_ids_of_the_sampler(300, {1.0, 0, 1.0, 0.0, 1.0, false, 3}, 300);
  expect_ids_of_the_sampler(300, {1.0, 40, 0.95, 0.01, 1.1, false, 4}, 300);
  expect_ids_of_the_sampler(300, {1.0, 0, 1.0, 0.0, 1.0, true, 5}, 30);
}

// All equal: the lowest ids stay, and are drawn by their number alone.
TEST_F(SamplingCuda, EqualLogits) {
  const std::int64_t v = 5000;
  const Tensor logits = Tensor::full({1, v}, 2.5, DType::kF32), there = logits.to(kGpu);
  const Tensor ids = Tensor::zeros({1}, DType::kI32, kGpu);
  for (const SamplingOptions& options :
       {SamplingOptions{.top_k = 1234, .seed = 1}, SamplingOptions{.top_p = 0.3},
        SamplingOptions{.top_k = 100, .top_p = 0.5}, SamplingOptions{.top_k = 1234, .top_p = 0.5}}) {
    Sampler sampler(options, v, 2);
    const ops::RowSampler device(1, v, kGpu);
    device.set({sampling_row(options, 2)}, {{}});
    for (int t = 0; t < 50; ++t) {
      device.draw(there, ids);
      ASSERT_EQ(static_cast<std::int32_t>(ids.at({0})),
                sampler.sample(std::span(logits.data<float>(), static_cast<std::size_t>(v))));
    }
  }
}

// Nothing is drawn from what is no number, and nothing counts as drawn.
TEST_F(SamplingCuda, WhatIsNoNumber) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  const SamplingOptions options{.seed = 9};
  Sampler sampler(options, 3, 0);
  const ops::RowSampler device(1, 3, kGpu);
  device.set({sampling_row(options, 0)}, {{}});
  const Tensor ids = Tensor::zeros({1}, DType::kI32, kGpu);
  for (const std::vector<float>& bad : {std::vector{0.0f, nan, 0.0f}, {0.0f, inf, 0.0f}, {-inf, -inf, -inf}}) {
    device.draw(Tensor::of<float>({1, 3}, bad).to(kGpu), ids);
    EXPECT_EQ(ids.at({0}), -1);
  }
  const std::vector<float> good = {0.1f, -inf, 0.3f};
  for (int t = 0; t < 20; ++t) {
    device.draw(Tensor::of<float>({1, 3}, good).to(kGpu), ids);
    EXPECT_EQ(static_cast<std::int32_t>(ids.at({0})), sampler.sample(good));
  }
}

// Prompts decoded together, ids drawn on the device, against sessions, ids drawn here.
TEST_F(SamplingCuda, GeneratesWhatSessionsDraw) {
  ModelConfig config;
  config.d_model = 64;
  config.n_layer = 2;
  config.vocab_size = 101;
  const Model model = Model::create(config, 7).to(kGpu).to(DType::kBF16);
  const std::vector<std::vector<std::int32_t>> prompts = {{1, 2, 3}, {50}, {7, 7, 7, 7, 8}, {100, 99}};
  for (const SamplingOptions& sampling :
       {SamplingOptions{.temperature = 0.9, .top_k = 60, .top_p = 0.95, .repetition_penalty = 1.2, .seed = 5},
        SamplingOptions{.greedy = true}}) {
    GenerateOptions options;
    options.sampling = sampling;
    options.max_new_tokens = 17;
    options.stop_on_eos = false;
    options.batch_size = 3;  // the fourth comes when a row is free
    options.keep_sessions = true;
    GenerationBatch batch(model, nullptr, prompts, options, {});
    while (!batch.finished()) batch.round(ctx_);
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      Session session(model, sampling, 0, i);
      session.append(ctx_, prompts[i]);
      std::vector<std::int32_t> expected;
      for (int t = 0; t < 17; ++t) expected.push_back(session.next(ctx_));
      EXPECT_EQ(batch.results()[i].ids, expected) << i;
      EXPECT_EQ(batch.results()[i].session->next(ctx_), session.next(ctx_)) << i;  // and both go on
    }
  }
}

}  // namespace
}  // namespace coluber::testing
