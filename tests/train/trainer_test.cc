#include <cmath>
#include <limits>

#include "tests/train/training.h"

namespace coluber {
namespace {

using namespace coluber::testing;

double mean_of_last(const std::vector<LossPoint>& losses, std::size_t count) {
  double sum = 0;
  for (std::size_t i = losses.size() - count; i < losses.size(); ++i)
    sum += losses[i].loss / static_cast<double>(count);
  return sum;
}

Model trained(int threads, const TrainOptions& options, double dropout = 0) {
  Context ctx({.num_threads = threads});
  ModelConfig config = small_config();
  config.dropout = dropout;
  const Model model = Model::create(config, 1);
  Trainer trainer(ctx, model, small_batches(), options, small_heldout());
  EXPECT_EQ(trainer.run(), TrainEnd::kDone);
  return model;
}

TEST(Trainer, Learns) {
  Context ctx({.num_threads = 2});
  const Model model = Model::create(small_config(), 1);
  Trainer trainer(ctx, model, small_batches(), small_options(120), small_heldout());
  EXPECT_EQ(trainer.run(), TrainEnd::kDone);
  ASSERT_EQ(trainer.train_losses().size(), 120u);
  EXPECT_NEAR(trainer.train_losses().front().loss, std::log(40), 0.3);
  EXPECT_LT(mean_of_last(trainer.train_losses(), 10), 0.8 * std::log(40));
  ASSERT_EQ(trainer.heldout_losses().size(), 1u);
  EXPECT_NEAR(trainer.heldout_losses().back().loss, mean_of_last(trainer.train_losses(), 10), 0.5);
}

TEST(Trainer, SameBitsOnEveryRunAndNumberOfThreads) {
  const Model one = trained(1, small_options(12), 0.1);
  expect_same_parameters(one, trained(1, small_options(12), 0.1));
  expect_same_parameters(one, trained(2, small_options(12), 0.1));
  expect_same_parameters(one, trained(3, small_options(12), 0.1));
}

// Whatever backward makes again, the parameters are the same; the most memory of a step falls.
TEST(Trainer, RecomputingChangesNoBit) {
  Context ctx({.num_threads = 2});
  const auto run = [&](Recompute recompute, double dropout, std::int64_t* peak) {
    TrainOptions options = small_options(3);
    options.recompute = recompute;
    options.grad_accum = 2;
    ModelConfig config = small_config();
    config.n_layer = 6;
    config.dropout = dropout;
    const Model model = Model::create(config, 1);
    Trainer trainer(
        ctx, model, [](std::int64_t i) { return small_batch(i, 4, 512); }, options, small_heldout());
    trainer.step();
    const std::int64_t before = memory_stats().live_bytes;
    reset_memory_peak();
    trainer.step();
    *peak = memory_stats().peak_bytes - before;
    return model;
  };
  for (const double dropout : {0.0, 0.2}) {
    std::int64_t none = 0, light = 0, scan = 0, layer = 0;
    const Model expected = run(Recompute::kNone, dropout, &none);
    expect_same_parameters(run(Recompute::kLight, dropout, &light), expected);
    expect_same_parameters(run(Recompute::kScan, dropout, &scan), expected);
    expect_same_parameters(run(Recompute::kLayer, dropout, &layer), expected);
    EXPECT_LT(light, none * 9 / 10);
    EXPECT_LT(scan, light * 9 / 10);
    EXPECT_LT(layer, none / 2);
  }
}

// A device that is lost in the middle of a run: the checkpoint before is whole, and goes on to the same bits.
TEST(Trainer, ResumesAfterALostDevice) {
  const TemporaryFolder folder;
  Context ctx({.num_threads = 2});
  TrainOptions options = small_options(8, folder.path());
  options.save_every = 3;
  const auto failing = [](std::int64_t index) -> Batch {
    if (index >= 5)
      throw Error(ErrorCode::kDevice, "cuda", "synchronize: expected success, got cudaErrorECCUncorrectable");
    return small_batch(index);
  };
  const Model lost = Model::create(small_config(), 1), resumed = Model::create(small_config(), 2);
  EXPECT_NE(refusal(ErrorCode::kDevice, [&] { Trainer(ctx, lost, failing, options, small_heldout()).run(); })
                .find("ECCUncorrectable"),
            std::string::npos);
  const std::string checkpoint = newest_checkpoint(folder.path());
  EXPECT_NE(checkpoint.find("step-3"), std::string::npos);
  Trainer trainer(ctx, resumed, small_batches(), options, small_heldout());
  trainer.resume(checkpoint);
  EXPECT_EQ(trainer.run(), TrainEnd::kDone);
  expect_same_parameters(resumed, trained(2, small_options(8)));
}

TEST(Trainer, AccumulatedBatchesEqualOneLargeBatch) {
  Context ctx({.num_threads = 2});
  const auto gradients_after_one_step = [&](std::int64_t accum) {
    TrainOptions options = small_options(1);
    options.grad_accum = accum;
    options.schedule.warmup_steps = 0;
    const Model model = Model::create(small_config(), 1);
    // Rows 0 to 3 as one batch, or two by two; the last row counts no target in its first half.
    const auto batches = [accum](std::int64_t index) {
      Batch all = small_batch(0, 4);
      for (std::int64_t t = 0; t < 16; ++t) all.targets.set({3, t}, -1);
      if (accum == 1) return all;
      const auto rows = [&](const Tensor& x) { return x.slice(0, 2 * index, 2 * index + 2).contiguous(); };
      return Batch{rows(all.ids), rows(all.targets), {{}, rows(all.sequences.resets)}};
    };
    Trainer trainer(ctx, model, batches, options, small_heldout());
    return trainer.step();
  };
  const StepReport whole = gradients_after_one_step(1), parts = gradients_after_one_step(2);
  EXPECT_NEAR(parts.loss, whole.loss, 1e-6);  // f32 sums in another order
  EXPECT_NEAR(parts.grad_norm, whole.grad_norm, 1e-5 * whole.grad_norm);
  EXPECT_EQ(parts.tokens, whole.tokens);
}

TEST(Trainer, CallsBackWhenDue) {
  Context ctx({.num_threads = 1});
  const Model model = Model::create(small_config(), 1);
  TrainOptions options = small_options(10);
  options.eval_every = 4;
  options.sample_every = 3;
  std::vector<std::int64_t> steps, evals, samples;
  TrainCallbacks callbacks;
  callbacks.on_step = [&](const StepReport& report) { steps.push_back(report.step); };
  callbacks.on_eval = [&](const EvalReport& report) { evals.push_back(report.step); };
  callbacks.on_sample = [&](std::int64_t step) { samples.push_back(step); };
  Trainer trainer(ctx, model, small_batches(), options, small_heldout(), callbacks);
  trainer.run();
  EXPECT_EQ(steps.size(), 10u);
  EXPECT_EQ(evals, (std::vector<std::int64_t>{4, 8, 10}));
  EXPECT_EQ(samples, (std::vector<std::int64_t>{3, 6, 9}));
}

TEST(Trainer, ChoosesHowOftenToEvaluateAndSample) {
  Context ctx({.num_threads = 1});
  const Model model = Model::create(small_config(), 1);
  TrainOptions options = small_options(25);
  options.eval_every = options.sample_every = options.save_every = -1;
  std::vector<std::int64_t> evals, samples;
  TrainCallbacks callbacks;
  callbacks.on_eval = [&](const EvalReport& report) { evals.push_back(report.step); };
  callbacks.on_sample = [&](std::int64_t step) { samples.push_back(step); };
  Trainer trainer(ctx, model, small_batches(), options, small_heldout(), callbacks);
  trainer.run();
  EXPECT_EQ(evals, (std::vector<std::int64_t>{3, 6, 9, 12, 15, 18, 21, 24, 25}));
  EXPECT_EQ(samples, (std::vector<std::int64_t>{9, 18}));
}

TEST(Trainer, TurnsLossIntoBitsPerByte) {
  Context ctx({.num_threads = 1});
  const Model model = Model::create(small_config(), 1);
  TrainOptions options = small_options(1);
  Trainer unknown(ctx, model, small_batches(), options, small_heldout());
  EXPECT_EQ(unknown.evaluate().bits_per_byte, 0);
  options.bytes_per_token = 3;
  Trainer known(ctx, model, small_batches(), options, small_heldout());
  const EvalReport report = known.evaluate();
  EXPECT_DOUBLE_EQ(report.bits_per_byte,
                   report.loss.nats / std::log(2) / static_cast<double>(3 * report.loss.num_tokens));
}

TEST(Trainer, EndsInTimeAndItsScheduleWithIt) {
  Context ctx({.num_threads = 1});
  const Model model = Model::create(small_config(), 1);
  TrainOptions options = small_options(0);
  options.max_seconds = 2;
  options.schedule.warmup_steps = -1;
  double last_lr = 1;
  TrainCallbacks callbacks;
  callbacks.on_step = [&](const StepReport& report) { last_lr = report.lr; };
  Trainer trainer(ctx, model, small_batches(), options, small_heldout(), callbacks);
  const auto start = std::chrono::steady_clock::now();
  trainer.estimate();
  const auto begin = std::chrono::steady_clock::now();
  trainer.run();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  EXPECT_LT(std::chrono::duration<double>(begin - start).count(), 4);
  EXPECT_GT(seconds, 1.2);
  EXPECT_LT(seconds, 2.6);
  EXPECT_LT(last_lr, 0.1 * options.schedule.lr);  // the cosine has come down
}

TEST(Trainer, StepByStepIsARun) {
  Context ctx({.num_threads = 1});
  TrainOptions options = small_options(12);
  options.schedule.warmup_steps = -1;
  const Model model = Model::create(small_config(), 1);
  Trainer trainer(ctx, model, small_batches(), options, small_heldout());
  EXPECT_EQ(trainer.step().lr, options.schedule.lr);
  for (int step = 1; step < 12; ++step) trainer.step();
  EXPECT_LT(trainer.train_losses().back().loss, trainer.train_losses().front().loss);
  expect_same_parameters(model, trained(1, options));
}

TEST(Trainer, StepsWithoutARunKnowHowFarTimeReaches) {
  Context ctx({.num_threads = 1});
  TrainOptions options = small_options(0);
  options.max_seconds = 3600;
  Trainer trainer(ctx, Model::create(small_config(), 1), small_batches(), options, small_heldout());
  const StepReport report = trainer.step();
  EXPECT_GT(report.total_steps, 1000);
  EXPECT_LT(report.total_steps, 100'000'000);
}

TEST(Trainer, MoreTimeThanThereIsEndsAtTheLastStep) {
  Context ctx({.num_threads = 1});
  TrainOptions options = small_options(4);
  options.max_seconds = 1e300;
  Trainer trainer(ctx, Model::create(small_config(), 1), small_batches(), options, small_heldout());
  EXPECT_EQ(trainer.run(), TrainEnd::kDone);
  EXPECT_EQ(trainer.num_steps(), 4);
}

TEST(Trainer, NothingOfARefusedStepReachesTheNext) {
  Context ctx({.num_threads = 1});
  TrainOptions options = small_options(3);
  options.grad_accum = 2;
  bool is_wrong = true;
  const auto batches = [&](std::int64_t index) {
    Batch batch = small_batch(index);
    if (is_wrong && index == 1) batch.ids.set({0, 0}, 40);  // one more than the vocabulary
    return batch;
  };
  const Model model = Model::create(small_config(), 1), other = Model::create(small_config(), 1);
  Trainer trainer(ctx, model, batches, options, small_heldout());
  refusal(ErrorCode::kInvalidArgument, [&] { trainer.step(); });
  is_wrong = false;
  const double norm = trainer.step().grad_norm;
  EXPECT_EQ(norm, Trainer(ctx, other, batches, options, small_heldout()).step().grad_norm);
  expect_same_parameters(model, other);
}

TEST(Trainer, StopsOnNaNAndNamesStepAndCheckpoint) {
  const TemporaryFolder folder;
  Context ctx({.num_threads = 1});
  const Model model = Model::create(small_config(), 1);
  TrainOptions options = small_options(10, folder.path());
  options.save_every = 2;
  TrainCallbacks callbacks;
  callbacks.on_step = [&](const StepReport& report) {
    if (report.step == 5) model.parameters().back().var.value().fill(std::numeric_limits<double>::quiet_NaN());
  };
  Trainer trainer(ctx, model, small_batches(), options, small_heldout(), callbacks);
  const std::string sentence = refusal(ErrorCode::kNumeric, [&] { trainer.run(); });
  EXPECT_NE(sentence.find("step 6"), std::string::npos) << sentence;
  EXPECT_NE(sentence.find(folder / "checkpoints/step-4"), std::string::npos) << sentence;
  EXPECT_EQ(newest_checkpoint(folder.path()), folder / "checkpoints/step-4");
}

TEST(Trainer, StopsOnAHeldOutLossThatIsNotFinite) {
  const TemporaryFolder folder;
  Context ctx({.num_threads = 1});
  const Model model = Model::create(small_config(), 1);
  TrainOptions options = small_options(3, folder.path());
  options.eval_every = 2;
  TrainCallbacks callbacks;
  callbacks.on_step = [&](const StepReport& report) {
    if (report.step == 2) model.parameters().back().var.value().fill(std::numeric_limits<double>::quiet_NaN());
  };
  Trainer trainer(ctx, model, small_batches(), options, small_heldout(), callbacks);
  const std::string sentence = refusal(ErrorCode::kNumeric, [&] { trainer.run(); });
  EXPECT_NE(sentence.find("held-out loss at step 2"), std::string::npos) << sentence;
}

TEST(Trainer, SavesNoParametersThatAreNotFinite) {
  const TemporaryFolder folder;
  Context ctx({.num_threads = 1});
  const Model model = Model::create(small_config(), 1);
  Trainer trainer(ctx, model, small_batches(), small_options(3, folder.path()), small_heldout());
  trainer.save();
  trainer.step();
  const Parameter last = model.parameters().back();
  last.var.value().fill(std::numeric_limits<double>::infinity());
  const std::string sentence = refusal(ErrorCode::kNumeric, [&] { trainer.save(); });
  EXPECT_NE(sentence.find(last.name), std::string::npos) << sentence;
  EXPECT_NE(sentence.find("checkpoints/step-0"), std::string::npos) << sentence;
  EXPECT_EQ(newest_checkpoint(folder.path()), folder / "checkpoints/step-0");
}

TEST(Trainer, StopsOnInfiniteGradientsBeforeTheyAreUsed) {
  Context ctx({.num_threads = 1});
  const Model model = Model::create(small_config(), 1);
  TrainOptions options = small_options(3);
  options.adamw.clip = 0;
  options.schedule.lr = 1e30;  // the update after the first gradients makes the next ones overflow
  options.schedule.warmup_steps = 0;
  Trainer trainer(ctx, model, small_batches(), options, small_heldout());
  const std::string sentence = refusal(ErrorCode::kNumeric, [&] { trainer.run(); });
  EXPECT_NE(sentence.find("at step 2"), std::string::npos) << sentence;
  EXPECT_NE(sentence.find("no checkpoint was written yet"), std::string::npos) << sentence;
}

TEST(Trainer, EstimatesMemoryWithinATenth) {
  for (const std::int64_t rows : {2, 16}) {
    Context ctx({.num_threads = 2});
    const Model model = Model::create(small_config(), 1);
    const auto batches = [rows](std::int64_t index) { return small_batch(index, rows, 200); };
    Trainer trainer(ctx, model, batches, small_options(5), batches);
    const TrainEstimate estimate = trainer.estimate();
    EXPECT_EQ(estimate.parameter_bytes, model.size_bytes());
    EXPECT_EQ(estimate.optimizer_bytes, 2 * model.size_bytes());
    reset_memory_peak();
    trainer.run();
    const auto used = static_cast<double>(memory_stats().peak_bytes);
    EXPECT_NEAR(static_cast<double>(estimate.peak_bytes), used, 0.1 * used);
  }
}

TEST(Trainer, RefusesWhatDoesNotFitInMemoryWithBothNumbers) {
  Context ctx({.num_threads = 1});
  const Model model = Model::create(small_config(), 1);
  const auto batches = [](std::int64_t index) { return small_batch(index, 16, 400); };
  Trainer trainer(ctx, model, batches, small_options(5), batches);
  const std::string sentence = refusal(ErrorCode::kOutOfMemory, [&] { trainer.estimate(3 << 20); });
  EXPECT_NE(sentence.find("16 x 400"), std::string::npos) << sentence;
  EXPECT_NE(sentence.find("got 3 MiB"), std::string::npos) << sentence;
  // What it says would fit does; recomputing, which it names, fits as a whole where that does not.
  const std::string clue = "(a batch of ";
  ASSERT_NE(sentence.find(clue), std::string::npos) << sentence;
  const std::int64_t rows = std::stoll(sentence.substr(sentence.find(clue) + clue.size()));
  EXPECT_GE(rows, 1);
  EXPECT_LT(rows, 16);
  const auto fewer = [&](std::int64_t index) { return small_batch(index, rows, 400); };
  EXPECT_NO_THROW(Trainer(ctx, model, fewer, small_options(5), fewer).estimate(3 << 20));
  EXPECT_NE(sentence.find("would fit, with more gradient accumulation, and recompute = layer needs less"),
            std::string::npos)
      << sentence;
  EXPECT_NO_THROW(trainer.estimate(std::int64_t{4} << 30));
}

TEST(Trainer, AnEstimateChangesNothing) {
  Context ctx({.num_threads = 1});
  const Model with = Model::create(small_config(), 1);
  Trainer trainer(ctx, with, small_batches(), small_options(6), small_heldout());
  trainer.estimate();
  trainer.run();
  expect_same_parameters(with, trained(1, small_options(6)));
}

TEST(Trainer, RefusesOptionsThatDoNotFit) {
  Context ctx({.num_threads = 1});
  const Model model = Model::create(small_config(), 1);
  const auto refused = [&](const TrainOptions& options, const std::string& what) {
    const std::string sentence =
        refusal(ErrorCode::kInvalidArgument, [&] { Trainer trainer(ctx, model, small_batches(), options); });
    EXPECT_NE(sentence.find(what), std::string::npos) << sentence;
  };
  TrainOptions options = small_options(0);
  refused(options, "max_steps or max_seconds");
  options = small_options(3);
  refused(options, "heldout");
  options.eval_batches = 0;
  options.grad_accum = 0;
  refused(options, "grad_accum");
  options.grad_accum = 1;
  options.compute = DType::kF16;
  refused(options, "f32 or bf16");
  options.compute = DType::kF32;
  options.schedule.lr = std::nan("");
  refused(options, "lr");
  options.schedule.lr = 1e-3;
  options.schedule.warmup_steps = -2;
  refused(options, "warmup_steps");
  options.schedule.warmup_steps = -1;
  options.keep = 0;
  refused(options, "keep");
  EXPECT_THROW(Trainer(ctx, model.to(DType::kBF16), small_batches(), small_options(3), small_heldout()), Error);
}

TEST(Trainer, TakesABatchWithoutTargets) {
  Context ctx({.num_threads = 1});
  const Model model = Model::create(small_config(), 1);
  TrainOptions options = small_options(1);
  const auto batches = [](std::int64_t index) {
    Batch batch = small_batch(index);
    batch.targets.fill(-1);
    return batch;
  };
  Trainer trainer(ctx, model, batches, options, small_heldout());
  EXPECT_EQ(trainer.step().loss, 0);
}

}  // namespace
}  // namespace coluber
