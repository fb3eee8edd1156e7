#include "train/checkpoint.h"

#include <fcntl.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <cstdio>
#include <optional>

#include "tests/support/file_size_limit.h"
#include "tests/train/training.h"

namespace coluber {
namespace {

namespace fs = std::filesystem;
using namespace coluber::testing;

// Trains to `steps`, saving every `save_every`, and stops after `stop_after` steps when that is not 0.
Model train(const std::string& out, std::int64_t steps, std::int64_t stop_after, const std::string& resume = {},
            std::int64_t accum = 1, std::int64_t save_every = 0, std::int64_t keep = 3) {
  Context ctx({.num_threads = 2});
  ModelConfig config = small_config();
  config.dropout = 0.1;
  const Model model = Model::create(config, resume.empty() ? 1 : 99);  // a resumed one starts from other values
  TrainOptions options = small_options(steps, out);
  options.grad_accum = accum;
  options.save_every = save_every;
  options.keep = keep;
  options.settings = R"({"who": "checkpoint_test"})";
  std::int64_t done = 0;
  TrainCallbacks callbacks;
  callbacks.on_step = [&](const StepReport& report) { done = report.step; };
  callbacks.should_stop = [&] { return stop_after > 0 && done >= stop_after; };
  callbacks.add_files = [](const std::string& folder) { std::ofstream(folder + "/tokenizer.json") << "{}"; };
  Trainer trainer(ctx, model, small_batches(), options, small_heldout(), callbacks);
  if (!resume.empty()) trainer.resume(resume);
  EXPECT_EQ(trainer.run(), stop_after > 0 ? TrainEnd::kStopped : TrainEnd::kDone);
  return model;
}

// Rows of metrics.jsonl without what depends on the clock.
std::vector<std::string> timeless_rows(const std::string& path) {
  std::ifstream in(path);
  std::vector<std::string> rows;
  for (std::string line; std::getline(in, line);) rows.push_back(line.substr(0, line.find("\"seconds\"")));
  return rows;
}

TEST(Checkpoint, ResumedTrainingEndsWithTheSameBits) {
  for (const std::int64_t accum : {1, 2}) {
    const TemporaryFolder whole, parts;
    const Model uninterrupted = train(whole.path(), 20, 0, {}, accum);
    train(parts.path(), 20, 10, {}, accum);
    const std::string checkpoint = newest_checkpoint(parts.path());
    EXPECT_EQ(checkpoint, parts / "checkpoints/step-10");
    const Model resumed = train(parts.path(), 20, 0, checkpoint, accum);
    expect_same_parameters(uninterrupted, resumed);
    for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
      EXPECT_EQ(read_bytes(whole / ("checkpoints/step-20/" + std::string(file))),
                read_bytes(parts / ("checkpoints/step-20/" + std::string(file))))
          << file;
    }
    EXPECT_EQ(timeless_rows(whole / "metrics.jsonl"), timeless_rows(parts / "metrics.jsonl"));
  }
}

TEST(Checkpoint, IsAModelFolderWithEverythingBeside) {
  const TemporaryFolder folder;
  const Model model = train(folder.path(), 4, 0);
  const std::string checkpoint = folder / "checkpoints/step-4";
  for (const char* file :
       {"model.safetensors", "config.json", "tokenizer.json", "optimizer.safetensors", "trainer.json"}) {
    EXPECT_TRUE(fs::exists(checkpoint + "/" + file)) << file;
  }
  for (const char* file :
       {"model.safetensors", "config.json", "tokenizer.json", "README.md", "loss.svg", "metrics.jsonl"}) {
    EXPECT_TRUE(fs::exists(folder / file)) << file;
  }
  expect_same_parameters(model, Model::load(checkpoint));
  expect_same_parameters(model, Model::load(folder.path()));
  EXPECT_EQ(checkpoint_settings(checkpoint), R"({"who": "checkpoint_test"})");
  const TrainerState state = read_trainer_state(checkpoint);
  EXPECT_EQ(state.step, 4);
  EXPECT_EQ(state.next_batch, 4);
  EXPECT_EQ(state.tokens, 4 * 3 * 33);
  EXPECT_EQ(state.schedule.total_steps, 4);
}

TEST(Checkpoint, KeepsTheNewest) {
  const TemporaryFolder folder;
  train(folder.path(), 10, 0, {}, 1, 2, 3);
  std::vector<std::int64_t> steps;
  for (const auto& [step, path] : list_checkpoints(folder.path())) steps.push_back(step);
  EXPECT_EQ(steps, (std::vector<std::int64_t>{6, 8, 10}));
}

TEST(Checkpoint, ACutOrAlteredOneIsRefusedNamingTheOneBefore) {
  for (const char* file : {"model.safetensors", "optimizer.safetensors", "trainer.json", "config.json"}) {
    for (const bool cut : {true, false}) {
      const TemporaryFolder folder;
      train(folder.path(), 4, 0, {}, 1, 2);
      const std::string path = folder / ("checkpoints/step-4/" + std::string(file));
      std::string bytes = read_bytes(path);
      if (cut)
        bytes.resize(bytes.size() / 2);
      else
        bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 4);
      std::ofstream(path, std::ios::binary) << bytes;
      const std::string sentence = refusal(ErrorCode::kCorruptFile, [&] { newest_checkpoint(folder.path()); });
      EXPECT_NE(sentence.find(folder / "checkpoints/step-2"), std::string::npos) << sentence;
      EXPECT_NE(sentence.find(file), std::string::npos) << sentence;
    }
  }
}

TEST(Checkpoint, AMissingFileIsRefused) {
  const TemporaryFolder folder;
  train(folder.path(), 2, 0);
  fs::remove(folder / "checkpoints/step-2/optimizer.safetensors");
  const std::string sentence = refusal(ErrorCode::kCorruptFile, [&] { newest_checkpoint(folder.path()); });
  EXPECT_NE(sentence.find("no other is whole"), std::string::npos) << sentence;
}

TEST(Checkpoint, OfAnotherModelIsRefused) {
  const TemporaryFolder folder;
  train(folder.path(), 2, 0);
  Context ctx({.num_threads = 1});
  ModelConfig config = small_config();
  config.d_model = 32;
  Trainer trainer(ctx, Model::create(config, 1), small_batches(), small_options(4), small_heldout());
  const std::string sentence =
      refusal(ErrorCode::kInvalidArgument, [&] { trainer.resume(folder / "checkpoints/step-2"); });
  EXPECT_NE(sentence.find("another model"), std::string::npos) << sentence;
}

TEST(Checkpoint, WithOtherSeedOrAccumulationIsRefused) {
  const TemporaryFolder folder;
  train(folder.path(), 2, 0);
  Context ctx({.num_threads = 1});
  TrainOptions options = small_options(4);
  options.seed = 77;
  Trainer seeded(ctx, Model::create(small_config(), 1), small_batches(), options, small_heldout());
  EXPECT_NE(refusal(ErrorCode::kInvalidArgument, [&] { seeded.resume(folder / "checkpoints/step-2"); }).find("77"),
            std::string::npos);
  options = small_options(4);
  options.grad_accum = 2;
  Trainer accumulating(ctx, Model::create(small_config(), 1), small_batches(), options, small_heldout());
  EXPECT_NE(refusal(ErrorCode::kInvalidArgument, [&] { accumulating.resume(folder / "checkpoints/step-2"); })
                .find("grad_accum"),
            std::string::npos);
}

TEST(Checkpoint, OfOtherDataIsRefusedWhereBothAreKnown) {
  const TemporaryFolder folder;
  const auto train_on = [&](const std::string& data, std::int64_t steps, const std::string& resume) {
    Context ctx({.num_threads = 1});
    TrainOptions options = small_options(steps, folder.path());
    options.data = data;
    Trainer trainer(ctx, Model::create(small_config(), 1), small_batches(), options, small_heldout());
    if (!resume.empty()) trainer.resume(resume);
    trainer.run();
  };
  train_on("the first", 2, {});
  const std::string checkpoint = folder / "checkpoints/step-2";
  EXPECT_EQ(read_trainer_state(checkpoint).data, "the first");
  const std::string sentence = refusal(ErrorCode::kInvalidArgument, [&] { train_on("the second", 3, checkpoint); });
  EXPECT_NE(sentence.find("data: expected the first, as in " + checkpoint + ", got the second"), std::string::npos)
      << sentence;
  train_on("", 3, checkpoint);  // of the caller alone
  EXPECT_EQ(read_trainer_state(folder / "checkpoints/step-3").data, "the first");
  train_on("the first", 4, folder / "checkpoints/step-3");
}

TEST(Checkpoint, ARefusedOneChangesNothing) {
  const TemporaryFolder folder;
  train(folder.path(), 2, 0);
  Context ctx({.num_threads = 1});
  ModelConfig config = small_config();
  config.mixer.d_state = 4;  // of embedding and norm, which come first, the shapes are the same
  const Model narrow = Model::create(config, 7), model = Model::create(small_config(), 7);
  Trainer other(ctx, narrow, small_batches(), small_options(4), small_heldout());
  refusal(ErrorCode::kInvalidArgument, [&] { other.resume(folder / "checkpoints/step-2"); });
  expect_same_parameters(narrow, Model::create(config, 7));
  TrainOptions options = small_options(4);
  options.seed = 77;
  Trainer seeded(ctx, model, small_batches(), options, small_heldout());
  refusal(ErrorCode::kInvalidArgument, [&] { seeded.resume(folder / "checkpoints/step-2"); });
  expect_same_parameters(model, Model::create(small_config(), 7));
}

// Names of entries of `folder` that are deleted while `work` runs.
template <class Work>
std::vector<std::string> deleted_names(const std::string& folder, Work&& work) {
  const int events = ::inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  EXPECT_GE(::inotify_add_watch(events, folder.c_str(), IN_DELETE), 0);
  work();
  std::vector<std::string> names;
  alignas(inotify_event) char buffer[4096];
  for (ssize_t got = 0; (got = ::read(events, buffer, sizeof buffer)) > 0;) {
    for (ssize_t at = 0; at < got;) {
      const auto* event = reinterpret_cast<const inotify_event*>(buffer + at);
      names.emplace_back(event->name);
      at += static_cast<ssize_t>(sizeof *event + event->len);
    }
  }
  ::close(events);
  return names;
}

// Saved twice, a step's checkpoint is exchanged for the new one: at no moment is there none.
TEST(Checkpoint, OfTheSameStepIsReplacedAtOnce) {
  const TemporaryFolder folder;
  fs::create_directories(folder / "a");
  fs::create_directories(folder / "b");
  const std::string a = folder / "a", b = folder / "b";
  if (::renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) != 0) {
    GTEST_SKIP() << "this file system exchanges no folders";
  }
  Context ctx({.num_threads = 1});
  const Model model = Model::create(small_config(), 1);
  const AdamW optimizer(model.parameters(), {});
  TrainerState state;
  state.step = 7;
  write_checkpoint(folder.path(), model, optimizer, state, 3, {});
  state.tokens = 5;
  const std::vector<std::string> deleted =
      deleted_names(folder / "checkpoints", [&] { write_checkpoint(folder.path(), model, optimizer, state, 3, {}); });
  EXPECT_EQ(deleted, (std::vector<std::string>{".step-7.new"}));
  EXPECT_EQ(read_trainer_state(folder / "checkpoints/step-7").tokens, 5);
}

TEST(Checkpoint, ANewTrainingDoesNotWriteOverAnOldOne) {
  const TemporaryFolder folder;
  train(folder.path(), 2, 0);
  const std::string before = read_bytes(folder / "checkpoints/step-2/model.safetensors");
  const std::string sentence = refusal(ErrorCode::kInvalidArgument, [&] { train(folder.path(), 3, 0); });
  EXPECT_NE(sentence.find("checkpoints/step-2"), std::string::npos) << sentence;
  EXPECT_EQ(read_bytes(folder / "checkpoints/step-2/model.safetensors"), before);
}

TEST(Checkpoint, SavingIntoTheFolderOfAnotherTrainingIsRefused) {
  const TemporaryFolder folder;
  train(folder.path(), 2, 0);
  Context ctx({.num_threads = 1});
  Trainer other(ctx, Model::create(small_config(), 1), small_batches(), small_options(4, folder.path()),
                small_heldout());
  const std::string sentence = refusal(ErrorCode::kInvalidArgument, [&] { other.save(); });
  EXPECT_NE(sentence.find("checkpoints/step-2"), std::string::npos) << sentence;
}

// From a checkpoint of one folder on, in the folder of another training.
TEST(Checkpoint, AResumedTrainingLeavesAnotherTrainingAlone) {
  const TemporaryFolder mine, other;
  train(mine.path(), 2, 0);
  train(other.path(), 6, 0);
  const std::string metrics = read_bytes(other / "metrics.jsonl");
  const std::string sentence =
      refusal(ErrorCode::kInvalidArgument, [&] { train(other.path(), 4, 0, mine / "checkpoints/step-2"); });
  EXPECT_NE(sentence.find(other / "checkpoints/step-6"), std::string::npos) << sentence;
  EXPECT_EQ(newest_checkpoint(other.path()), other / "checkpoints/step-6");
  EXPECT_EQ(read_bytes(other / "metrics.jsonl"), metrics);
  const TemporaryFolder fresh;
  train(fresh.path(), 4, 0, mine / "checkpoints/step-2/");
  EXPECT_EQ(newest_checkpoint(fresh.path()), fresh / "checkpoints/step-4");
}

TEST(Checkpoint, AStoppedTrainerRunsOnToTheSameBits) {
  const TemporaryFolder whole, parts;
  const Model uninterrupted = train(whole.path(), 8, 0);
  Context ctx({.num_threads = 2});
  ModelConfig config = small_config();
  config.dropout = 0.1;
  const Model model = Model::create(config, 1);
  std::int64_t stop_after = 3;
  TrainCallbacks callbacks;
  callbacks.should_stop = [&] { return stop_after-- == 0; };
  Trainer trainer(ctx, model, small_batches(), small_options(8, parts.path()), small_heldout(), callbacks);
  trainer.save();
  EXPECT_EQ(trainer.run(), TrainEnd::kStopped);
  EXPECT_EQ(trainer.num_steps(), 3);
  EXPECT_EQ(trainer.run(), TrainEnd::kDone);
  expect_same_parameters(uninterrupted, model);
  EXPECT_EQ(timeless_rows(whole / "metrics.jsonl"), timeless_rows(parts / "metrics.jsonl"));
  EXPECT_EQ(trainer.train_losses().size(), 8u);
  trainer.resume(parts / "checkpoints/step-3");
  EXPECT_EQ(trainer.run(), TrainEnd::kDone);
  expect_same_parameters(uninterrupted, model);
  EXPECT_EQ(timeless_rows(whole / "metrics.jsonl"), timeless_rows(parts / "metrics.jsonl"));
  EXPECT_EQ(trainer.train_losses().size(), 8u);
}

// Before run() opens them, saving a resumed training must not forget how long its metrics were.
TEST(Checkpoint, SavingAResumedTrainingAtOnceKeepsItsMetrics) {
  const TemporaryFolder folder;
  train(folder.path(), 4, 2);
  Context ctx({.num_threads = 2});
  const Model model = Model::create(small_config(), 1);
  TrainOptions options = small_options(4, folder.path());
  Trainer trainer(ctx, model, small_batches(), options, small_heldout());
  trainer.resume(folder / "checkpoints/step-2");
  trainer.save();
  trainer.run();
  EXPECT_EQ(trainer.train_losses().size(), 4u);
}

TEST(Checkpoint, ATrainingDoesNotWriteOverAModel) {
  const TemporaryFolder folder;
  Model::create(small_config(), 1).save(folder.path());
  const std::string before = read_bytes(folder / "model.safetensors");
  const std::string sentence = refusal(ErrorCode::kInvalidArgument, [&] { train(folder.path(), 3, 0); });
  EXPECT_NE(sentence.find(folder / "config.json"), std::string::npos) << sentence;
  EXPECT_EQ(read_bytes(folder / "model.safetensors"), before);
}

TEST(Checkpoint, WhatAKilledRunLeftHalfWrittenGoes) {
  const TemporaryFolder folder;
  fs::create_directories(folder / "checkpoints/.step-7.new");
  std::ofstream(folder / "checkpoints/.step-7.new/model.safetensors") << "half";
  train(folder.path(), 2, 0);
  EXPECT_FALSE(fs::exists(folder / "checkpoints/.step-7.new"));
  EXPECT_EQ(newest_checkpoint(folder.path()), folder / "checkpoints/step-2");
}

TEST(Checkpoint, AFullDiskStopsTrainingAndLeavesTheOneBefore) {
  const TemporaryFolder folder;
  Context ctx({.num_threads = 1});
  const Model model = Model::create(small_config(), 1);
  TrainOptions options = small_options(4, folder.path());
  options.save_every = 2;
  std::optional<FileSizeLimit> full;
  TrainCallbacks callbacks;
  callbacks.on_checkpoint = [&](const std::string&) { full.emplace(20000); };  // the model alone has more bytes
  Trainer trainer(ctx, model, small_batches(), options, small_heldout(), callbacks);
  const std::string sentence = refusal(ErrorCode::kIo, [&] { trainer.run(); });
  full.reset();
  EXPECT_NE(sentence.find("step-4"), std::string::npos) << sentence;
  EXPECT_EQ(newest_checkpoint(folder.path()), folder / "checkpoints/step-2");
  EXPECT_NO_THROW(Model::load(folder / "checkpoints/step-2"));
}

TEST(Checkpoint, ResumingFromAnEarlierOneSetsLaterOnesAside) {
  const TemporaryFolder folder;
  train(folder.path(), 6, 0, {}, 1, 2);
  train(folder.path(), 4, 3, folder / "checkpoints/step-2");
  EXPECT_EQ(newest_checkpoint(folder.path()), folder / "checkpoints/step-3");
  EXPECT_TRUE(fs::exists(folder / "checkpoints/step-6.old/model.safetensors"));
}

TEST(Checkpoint, NoneIsRefused) {
  const TemporaryFolder folder;
  EXPECT_NE(refusal(ErrorCode::kNotFound, [&] { newest_checkpoint(folder.path()); }).find("none"), std::string::npos);
  EXPECT_NE(refusal(ErrorCode::kNotFound, [&] { checkpoint_settings(folder.path()); }).find("trainer.json"),
            std::string::npos);
}

TEST(Checkpoint, LeavesNothingWhenItCannotBeWritten) {
  const TemporaryFolder folder;
  Context ctx({.num_threads = 1});
  const Model model = Model::create(small_config(), 1);
  const AdamW optimizer(model.parameters(), {});
  const auto fails = [](const std::string& path) {
    throw Error(ErrorCode::kIo, "test", "cannot write " + path + ": No space left on device");
  };
  TrainerState state;
  state.step = 7;
  write_checkpoint(folder.path(), model, optimizer, state, 3, {});
  state.step = 8;
  refusal(ErrorCode::kIo, [&] { write_checkpoint(folder.path(), model, optimizer, state, 3, fails); });
  EXPECT_EQ(newest_checkpoint(folder.path()), folder / "checkpoints/step-7");
  std::size_t entries = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(folder / "checkpoints")) ++entries;
  EXPECT_EQ(entries, 1u);
}

}  // namespace
}  // namespace coluber
