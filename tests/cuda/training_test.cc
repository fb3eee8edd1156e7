// Training on a GPU: steps that are queued and recorded (train/queued_step.h) against plain ones, and against the CPU.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <optional>
#include <vector>

#include "coluber/train.h"
#include "core/check.h"
#include "tests/cuda/small_model.h"
#include "tests/support/files.h"
#include "train/queued_step.h"

namespace coluber::testing {
namespace {

class CudaTraining : public CudaModel {};

// A language that can be learnt: each id follows from the one before.
Batch batch_of(std::int64_t i) {
  const Tensor ids = random_ids({4, 33}, 101, static_cast<std::uint64_t>(i) + 10);
  for (std::int64_t row = 0; row < 4; ++row) {
    for (std::int64_t t = 1; t < 33; ++t) ids.set({row, t}, static_cast<int>(ids.at({row, t - 1}) * 7 + 3) % 101);
  }
  return {ids.slice(1, 0, 32).contiguous(), ids.slice(1, 1, 33).contiguous(), {}};
}

TrainOptions training_of(std::int64_t steps, DType compute) {
  TrainOptions options;
  options.max_steps = steps;
  options.schedule.lr = 3e-3;
  options.schedule.warmup_steps = 10;
  options.compute = compute;
  return options;
}

std::vector<double> train(Context& ctx, const Model& model, std::int64_t steps, DType compute) {
  std::vector<double> losses;
  TrainCallbacks callbacks;
  callbacks.on_step = [&](const StepReport& report) { losses.push_back(report.loss); };
  Trainer(ctx, model, batch_of, training_of(steps, compute), {}, callbacks).run();
  return losses;
}

void expect_same_parameters(const Model& a, const Model& b) {
  const Parameters x = a.parameters(), y = b.parameters();
  for (std::size_t i = 0; i < x.size(); ++i) {
    EXPECT_TRUE(same_bits(x[i].var.value().to(kCpuDevice), y[i].var.value().to(kCpuDevice))) << x[i].name;
  }
}

// With documents that end inside of it.
Batch batch_with_resets(std::int64_t i) {
  Batch batch = batch_of(i);
  batch.sequences.resets = Tensor::zeros(batch.ids.shape(), DType::kU8);
  batch.sequences.resets.set({i % 4, 5 + i % 20}, 1);
  for (std::int64_t t = 0; t < i % 7; ++t) batch.targets.set({1, t}, -1);
  return batch;
}

template <class F>
std::string refusal_with(ErrorCode code, F&& f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "was not refused";
  return {};
}

struct Trained {
  Model model;
  std::vector<StepReport> steps;
};

Trained trained(Context& ctx, const ModelConfig& config, const Batches& batches, const TrainOptions& options,
                const std::string& resume = {}) {
  Trained out{Model::create(config, resume.empty() ? 7 : 99).to(kGpu), {}};
  TrainCallbacks callbacks;
  callbacks.on_step = [&](const StepReport& report) { out.steps.push_back(report); };
  Trainer trainer(ctx, out.model, batches, options, {}, callbacks);
  if (!resume.empty()) trainer.resume(resume);
  trainer.run();
  return out;
}

void expect_same_steps(const Trained& a, const Trained& b, std::size_t skipped = 0) {
  ASSERT_EQ(a.steps.size(), b.steps.size() + skipped);
  for (std::size_t i = 0; i < b.steps.size(); ++i) {
    const StepReport &x = a.steps[i + skipped], &y = b.steps[i];
    EXPECT_EQ(x.step, y.step);
    EXPECT_EQ(x.step, static_cast<std::int64_t>(i + skipped) + 1);
    EXPECT_EQ(x.loss, y.loss) << x.step;
    EXPECT_EQ(x.grad_norm, y.grad_norm) << x.step;
    EXPECT_EQ(x.lr, y.lr) << x.step;
    EXPECT_EQ(x.tokens, y.tokens) << x.step;
  }
  expect_same_parameters(a.model, b.model);
}

struct GraphCase {
  DType compute;
  Recompute recompute;
  std::int64_t grad_accum;
};

// 24 steps with a rate that changes at each, dropout, accumulation, borders of documents and ignored targets: kernel by
// kernel, by graphs, and by graphs from a checkpoint on.
TEST_F(CudaTraining, GraphsChangeNoBit) {
  ModelConfig config = small_model();
  config.dropout = 0.1;
  config.norm = NormKind::kLayer;
  config.mixer.bias = true;
  for (const GraphCase& sizes : {GraphCase{DType::kBF16, Recompute::kNone, 3},
                                 {DType::kBF16, Recompute::kNone, 1},
                                 {DType::kF32, Recompute::kLayer, 2},
                                 {DType::kBF16, Recompute::kScan, 1}}) {
    SCOPED_TRACE(join(dtype_name(sizes.compute), " ", recompute_name(sizes.recompute), " ", sizes.grad_accum));
    const TemporaryFolder folder;
    TrainOptions options = training_of(24, sizes.compute);
    options.recompute = sizes.recompute;
    options.grad_accum = sizes.grad_accum;
    options.seed = 5;
    options.out = folder.path();
    options.save_every = 11;
    options.keep = 9;
    const Trained graphs = trained(ctx_, config, batch_with_resets, options);
    options.out = {};
    const Trained resumed = trained(ctx_, config, batch_with_resets, options, folder / "checkpoints/step-11");
    options.cuda_graph = false;
    const Trained plain = trained(ctx_, config, batch_with_resets, options);
    expect_same_steps(plain, graphs);
    expect_same_steps(plain, resumed, 11);
    EXPECT_LT(plain.steps.back().loss, plain.steps.front().loss);
  }
}

// Two lengths in turn, others that never come back, and steps whose batches differ.
TEST_F(CudaTraining, ShapesThatChangeChangeNoBit) {
  const auto batches = [](std::int64_t i) {
    const std::int64_t l = i % 12 == 11 ? 8 + i : i % 4 < 2 ? 32 : 17;
    const Batch batch = batch_of(i);
    return l > 32 ? batch : Batch{batch.ids.slice(1, 0, l).contiguous(), batch.targets.slice(1, 0, l).contiguous(), {}};
  };
  TrainOptions options = training_of(20, DType::kBF16);
  options.grad_accum = 2;
  const Trained graphs = trained(ctx_, small_model(), batches, options);
  options.cuda_graph = false;
  expect_same_steps(trained(ctx_, small_model(), batches, options), graphs);
}

// What Trainer queues is what a loop of loss, backward and AdamW::step waits for; with dropout, whose mask follows from
// the number of the batch.
TEST_F(CudaTraining, QueuedStepsAreSteps) {
  ModelConfig config = small_model();
  config.dropout = 0.2;
  TrainOptions options = training_of(12, DType::kBF16);
  options.seed = 3;
  const Trained queued = trained(ctx_, config, batch_of, options);
  const Model model = Model::create(config, 7).to(kGpu);
  AdamW optimizer(model.parameters(), options.adamw);
  for (const StepReport& report : queued.steps) {
    const Batch batch = batch_of(report.step - 1);
    Tape tape;
    Graph graph{ctx_, &tape, true, DType::kBF16, options.seed};
    graph.dropout_stream = static_cast<std::uint64_t>(report.step - 1) * kDropoutsPerBatch;
    const Var loss = model.loss(graph, batch.ids, batch.targets);
    EXPECT_NEAR(loss.value().at({}), report.loss, 1e-12 * report.loss);  // sums of tokens in another order
    tape.backward(ctx_, loss);
    EXPECT_EQ(optimizer.step(ctx_, report.lr), report.grad_norm) << report.step;
  }
  expect_same_parameters(model, queued.model);
}

// Parameters of a checkpoint are in other memory than those that steps were recorded with.
TEST_F(CudaTraining, GraphsFollowParametersToOtherMemory) {
  const TemporaryFolder folder;
  TrainOptions options = training_of(12, DType::kBF16);
  const Trained whole = trained(ctx_, small_model(), batch_of, options);
  options.out = folder.path();
  options.save_every = 4;
  options.keep = 9;
  const Model model = cpu_.to(kGpu);
  Trainer trainer(ctx_, model, batch_of, options);
  trainer.run();
  expect_same_parameters(model, whole.model);
  trainer.resume(folder / "checkpoints/step-4");
  trainer.run();
  expect_same_parameters(model, whole.model);
}

TEST_F(CudaTraining, EstimatesSayWhetherStepsAreRecordedAndChangeNothing) {
  TrainOptions options = training_of(3, DType::kBF16);
  for (const bool cuda_graph : {true, false}) {
    options.cuda_graph = cuda_graph;
    const Model model = cpu_.to(kGpu);
    Trainer trainer(ctx_, model, batch_of, options);
    EXPECT_EQ(trainer.estimate(std::int64_t{1} << 30).cuda_graph, cuda_graph);
    expect_same_parameters(model, cpu_);
    trainer.run();
    expect_same_parameters(model, trained(ctx_, small_model(), batch_of, options).model);
  }
}

// The seventh batch comes with a parameter of no number. The step after it has begun when that is found: neither has
// changed anything, nothing of them is in a checkpoint, and with the parameter as it was the training goes on.
TEST_F(CudaTraining, StopsOnALossThatIsNotFinite) {
  for (const bool cuda_graph : {true, false}) {
    const TemporaryFolder folder;
    TrainOptions options = training_of(12, DType::kBF16);
    options.cuda_graph = cuda_graph;
    options.out = folder.path();
    options.save_every = 2;
    const Model model = cpu_.to(kGpu);
    const Tensor weight = model.parameters()[3].var.value();
    std::optional<Tensor> kept;
    const auto batches = [&](std::int64_t i) {
      if (i == 6 && !kept) {
        kept = weight.clone();
        weight.fill(std::numeric_limits<double>::quiet_NaN());
      }
      return batch_of(i);
    };
    std::vector<StepReport> steps;
    TrainCallbacks callbacks;
    callbacks.on_step = [&](const StepReport& report) { steps.push_back(report); };
    Trainer trainer(ctx_, model, batches, options, {}, callbacks);
    const std::string sentence = refusal_with(ErrorCode::kNumeric, [&] { trainer.run(); });
    EXPECT_NE(sentence.find("loss at step 7"), std::string::npos) << sentence;
    EXPECT_NE(sentence.find("checkpoints/step-6"), std::string::npos) << sentence;
    EXPECT_EQ(newest_checkpoint(folder.path()), folder / "checkpoints/step-6");
    EXPECT_EQ(trainer.num_steps(), 6);
    EXPECT_EQ(steps.size(), 6u);
    weight.copy_from(*kept);
    EXPECT_EQ(trainer.run(), TrainEnd::kDone);
    ASSERT_EQ(steps.size(), 12u);
    EXPECT_EQ(steps[6].step, 7);
    options.out = {};
    expect_same_parameters(model, trained(ctx_, small_model(), batch_of, options).model);
  }
}

TEST_F(CudaTraining, StopsOnGradientsThatAreNotFinite) {
  for (const bool cuda_graph : {true, false}) {
    TrainOptions options = training_of(9, DType::kF32);
    options.cuda_graph = cuda_graph;
    options.adamw.clip = 0;
    options.schedule.lr = 1e30;  // an update after which the next gradients overflow
    options.schedule.warmup_steps = 0;
    const Model model = cpu_.to(kGpu);
    Trainer trainer(ctx_, model, batch_of, options);
    const std::string sentence = refusal_with(ErrorCode::kNumeric, [&] { trainer.run(); });
    EXPECT_NE(sentence.find("at step 2"), std::string::npos) << sentence;
    EXPECT_EQ(trainer.num_steps(), 1);
    const Model once = cpu_.to(kGpu);
    Trainer(ctx_, once, batch_of, options).step();
    expect_same_parameters(model, once);
  }
}

// Ids that are none are refused before a step begins, and the steps before it have happened.
TEST_F(CudaTraining, RefusesIdsThatAreNone) {
  const auto batches = [&](std::int64_t i) {
    Batch batch = batch_of(i);
    if (i == 3) batch.targets.set({0, 0}, 200);
    return batch;
  };
  std::vector<StepReport> steps;
  TrainCallbacks callbacks;
  callbacks.on_step = [&](const StepReport& report) { steps.push_back(report); };
  Trainer trainer(ctx_, gpu_, batches, training_of(8, DType::kBF16), {}, callbacks);
  const std::string sentence = refusal_with(ErrorCode::kInvalidArgument, [&] { trainer.run(); });
  EXPECT_NE(sentence.find("targets[0]"), std::string::npos) << sentence;
  EXPECT_EQ(steps.size(), 3u);
  const Model three = cpu_.to(kGpu);
  Trainer same(ctx_, three, batch_of, training_of(8, DType::kBF16));
  for (int i = 0; i < 3; ++i) same.step();
  expect_same_parameters(gpu_, three);
}

// From the third step on, which is recorded, all memory is there. One batch a step and several, with and without
// graphs.
TEST_F(CudaTraining, StepsAllocateNothing) {
  for (const bool cuda_graph : {true, false}) {
    for (const std::int64_t grad_accum : {1, 3}) {
      TrainOptions options = training_of(9, DType::kBF16);
      options.cuda_graph = cuda_graph;
      options.grad_accum = grad_accum;
      Trainer trainer(ctx_, cpu_.to(kGpu), batch_of, options);
      const auto held = [] { return memory_stats(kGpu).live_bytes + memory_stats(kGpu).cached_bytes; };
      for (int i = 0; i < 2; ++i) trainer.step();
      const std::int64_t before = held();
      for (int i = 0; i < 5; ++i) trainer.step();
      EXPECT_EQ(held(), before) << cuda_graph << " " << grad_accum;
    }
  }
}

TEST_F(CudaTraining, ResumedIsUninterrupted) {
  const TemporaryFolder folder;
  TrainOptions options = training_of(8, DType::kBF16);
  options.out = folder.path();
  options.save_every = 4;
  const Trained whole = trained(ctx_, small_model(), batch_of, options);
  options.out = {};
  const Trained resumed = trained(ctx_, small_model(), batch_of, options, folder / "checkpoints/step-4");
  expect_same_steps(whole, resumed, 4);
  for (const Parameter& parameter : resumed.model.parameters()) EXPECT_EQ(parameter.var.value().device(), kGpu);
}

// A training whose fifth batch has a kernel write where there is no memory: after that a process has no device any
// more. Ends the process, with code 3 if all it met was an error that says so.
[[noreturn]] void train_until_the_device_is_lost(Context& ctx, const TrainOptions& options) {
  const auto failing = [&](std::int64_t index) {
    if (index == 4) {
      void* nowhere = reinterpret_cast<void*>(std::uintptr_t{4096});
      ops::scale_inplace(ctx, Tensor::from_memory(nowhere, {1024}, DType::kF32, {}, kGpu), 2);
    }
    return batch_of(index);
  };
  try {
    Trainer(ctx, Model::create(small_model(), 7).to(kGpu), failing, options).run();
  } catch (const Error& error) {
    std::fputs(error.what(), stderr);
    std::_Exit(error.code() == ErrorCode::kDevice ? 3 : 4);
  }
  std::_Exit(5);
}

TEST_F(CudaTraining, ResumesAfterALostDevice) {
  constexpr const char* kFolder = "COLUBER_TEST_LOST_DEVICE";  // for the process that loses it, which starts anew
  std::optional<TemporaryFolder> own;
  if (std::getenv(kFolder) == nullptr) setenv(kFolder, own.emplace().path().c_str(), 1);
  TrainOptions options = training_of(8, DType::kBF16);
  options.out = std::getenv(kFolder);
  options.save_every = 3;
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(train_until_the_device_is_lost(ctx_, options), ::testing::ExitedWithCode(3), "illegal");
  unsetenv(kFolder);

  const Model resumed = Model::create(small_model(), 99).to(kGpu), whole = Model::create(small_model(), 7).to(kGpu);
  Trainer trainer(ctx_, resumed, batch_of, options);
  trainer.resume(options.out + "/checkpoints/step-3");
  EXPECT_EQ(trainer.run(), TrainEnd::kDone);
  Trainer(ctx_, whole, batch_of, training_of(8, DType::kBF16)).run();
  expect_same_parameters(resumed, whole);
}

// Both go down together: within 1% of the loss at the start, all along 200 steps in f32; bf16 within 5%.
TEST_F(CudaTraining, TrainsLikeTheCpuFor200Steps) {
  const std::vector<double> expected = train(ctx_, cpu_, 200, DType::kF32);
  EXPECT_LT(expected.back(), expected.front() / 3);
  const Model start = Model::create(small_model(), 7);
  for (const DType compute : {DType::kF32, DType::kBF16}) {
    const std::vector<double> got = train(ctx_, start.to(kGpu), 200, compute);
    ASSERT_EQ(got.size(), expected.size());
    double worst = 0;
    for (std::size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::abs(got[i] - expected[i]));
    EXPECT_LE(worst, (compute == DType::kF32 ? 0.01 : 0.05) * expected.front()) << dtype_name(compute);
  }
}

}  // namespace
}  // namespace coluber::testing
