// One training at a time in a folder.
#include <sys/wait.h>

#include "tests/train/training.h"

namespace coluber {
namespace {

namespace fs = std::filesystem;
using namespace coluber::testing;

TEST(TrainingLock, TheSecondIsToldWhoHasTheFolder) {
  const TemporaryFolder folder;
  const std::string out = folder / "model";
  auto first = lock_training(out);
  const std::string sentence = refusal(ErrorCode::kIo, [&] { lock_training(out); });
  EXPECT_NE(sentence.find(join(out, ", in use by process ", ::getpid())), std::string::npos) << sentence;
  EXPECT_NE(sentence.find("choose another folder"), std::string::npos) << sentence;
  EXPECT_NO_THROW(lock_training(folder / "other"));
  first.reset();
  EXPECT_FALSE(fs::exists(out + "/training.lock"));
  EXPECT_NO_THROW(lock_training(out));
}

TEST(TrainingLock, OfAProcessThatWasKilledBlocksNobody) {
  const TemporaryFolder folder;
  const pid_t child = ::fork();
  if (child == 0) {
    const auto lock = lock_training(folder.path());
    ::_exit(0);  // no destructor runs, as after a kill
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  EXPECT_TRUE(fs::exists(folder / "training.lock"));
  EXPECT_NO_THROW(lock_training(folder.path()));
}

TEST(TrainingLock, IsHeldFromTheBeginningOfATrainingToItsEnd) {
  const TemporaryFolder folder;
  Context ctx({.num_threads = 1});
  const Model model = Model::create(small_config(), 1);
  TrainCallbacks callbacks;
  int steps = 0;
  callbacks.on_step = [&](const StepReport&) {
    Trainer second(ctx, model, small_batches(), small_options(2, folder.path()), small_heldout());
    EXPECT_NE(refusal(ErrorCode::kIo, [&] { second.run(); }).find("in use"), std::string::npos);
    EXPECT_NE(refusal(ErrorCode::kIo, [&] { second.save(); }).find("in use"), std::string::npos);
    ++steps;
  };
  Trainer first(ctx, model, small_batches(), small_options(2, folder.path()), small_heldout(), callbacks);
  EXPECT_EQ(first.run(), TrainEnd::kDone);
  EXPECT_EQ(steps, 2);
  EXPECT_EQ(newest_checkpoint(folder.path()), folder / "checkpoints/step-2");
  EXPECT_NO_THROW(lock_training(folder.path()));  // although `first` is there
}

TEST(TrainingLock, AFailedTrainingLetsGo) {
  const TemporaryFolder folder;
  Context ctx({.num_threads = 1});
  const Model model = Model::create(small_config(), 1);
  TrainCallbacks callbacks;
  callbacks.on_step = [](const StepReport&) { throw std::runtime_error("of the caller"); };
  Trainer trainer(ctx, model, small_batches(), small_options(2, folder.path()), small_heldout(), callbacks);
  EXPECT_THROW(trainer.run(), std::runtime_error);
  EXPECT_NO_THROW(lock_training(folder.path()));
}

TEST(TrainingLock, MayBeTheCallers) {
  const TemporaryFolder folder;
  Context ctx({.num_threads = 1});
  TrainOptions options = small_options(2, folder.path());
  options.lock = lock_training(folder.path());
  Trainer trainer(ctx, Model::create(small_config(), 1), small_batches(), options, small_heldout());
  EXPECT_EQ(trainer.run(), TrainEnd::kDone);
  refusal(ErrorCode::kIo, [&] { lock_training(folder.path()); });
}

}  // namespace
}  // namespace coluber
