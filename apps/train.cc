// `coluber train`: from text to a model folder, and on again from any checkpoint.
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <ctime>

#include "apps/commands.h"
#include "apps/machine.h"
#include "apps/train_report.h"
#include "apps/train_setup.h"
#include "core/check.h"
#include "core/cuda.h"
#include "kernels/machine.h"

namespace coluber::apps {
namespace {

struct Options : TrainFlags {
  std::optional<FlagBindings> bindings;  // into the fields above
};

// --- the first SIGINT or SIGTERM asks for an end, one a second later ends --------------------------------------------
// In that second more of them are the same wish: `timeout` sends its signal to the program and to its group, and a key
// that is held repeats.
volatile std::sig_atomic_t stop_signal = 0;
std::timespec stop_time{};

extern "C" void ask_to_stop(int signal) {
  std::timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  if (stop_signal != 0) {
    const std::int64_t milliseconds =
        (now.tv_sec - stop_time.tv_sec) * 1000 + (now.tv_nsec - stop_time.tv_nsec) / 1000000;
    if (milliseconds < 1000) return;
    std::signal(signal, SIG_DFL);  // delivered when this returns
    std::raise(signal);
    return;
  }
  stop_time = now;
  stop_signal = signal;
  static constexpr char kNote[] = "\nStopping after this step, to save; once more ends at once.\n";
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, kNote, sizeof kNote - 1);
}

class StopOnSignal {
 public:
  StopOnSignal() {
    stop_signal = 0;
    struct sigaction action {};
    action.sa_handler = ask_to_stop;
    action.sa_flags = SA_RESTART;
    sigfillset(&action.sa_mask);  // one at a time
    for (std::size_t i = 0; i < 2; ++i) sigaction(kSignals[i], &action, &before_[i]);
  }
  ~StopOnSignal() {
    if (stop_signal != 0) return;  // more of the same may still come before the program has ended
    for (std::size_t i = 0; i < 2; ++i) sigaction(kSignals[i], &before_[i], nullptr);
  }
  StopOnSignal(const StopOnSignal&) = delete;
  StopOnSignal& operator=(const StopOnSignal&) = delete;

 private:
  static constexpr int kSignals[2] = {SIGINT, SIGTERM};
  struct sigaction before_[2]{};
};

// Of a GPU, in FLOP/s; 0: on the CPU, where it takes seconds to measure, and where memory is short.
double matrix_rate_of(Device device, DType dtype) {
  constexpr std::int64_t kMeasuringBytes = std::int64_t{8} << 30;
  if (device.is_cpu() || available_memory_bytes(device) < kMeasuringBytes) return 0;
  const double rate = cuda::measure_machine(cuda::current_stream(device.index)).matrix_flop_per_s(dtype);
  release_cached_memory(device);
  return rate;
}

int run(Options& options) {
  const std::string checkpoint = take_checkpoint(options, *options.bindings);
  check_train_flags(options);
  const std::shared_ptr<TrainingLock> lock = prepare_out(options, !checkpoint.empty());
  const TrainData data = open_train_data(options, checkpoint);
  Context ctx(options.context());
  const Device device = options.chosen_device();
  const double matrix_rate = matrix_rate_of(device, parse_dtype(options.dtype));
  const Model model = create_model(options, data);
  if (checkpoint.empty() && options.overwrite) remove_earlier_training(options.out, data);
  TrainReport report(ctx, model, options, data, matrix_rate);
  TrainCallbacks callbacks = report.callbacks();
  callbacks.should_stop = [] { return stop_signal != 0; };
  TrainOptions settings = train_options(options, *options.bindings, data);
  settings.lock = lock;
  Trainer trainer(ctx, model, data.train_batches(options), settings, data.heldout_batches(options), callbacks);
  if (!checkpoint.empty()) trainer.resume(checkpoint);
  const std::int64_t steps_before = trainer.num_steps();
  const TrainEstimate estimate = trainer.estimate(available_memory_bytes(model.device()));
  if (steps_before >= estimate.total_steps) {
    refuse_value(ErrorCode::kInvalidArgument, "train", "limit",
                 join("more than the ", counted(steps_before, "step"), " done"), join(estimate.total_steps),
                 "--max-steps and --max-seconds count from the beginning of the training, not of this run");
  }
  // The trial step has touched all memory that training will: what the process holds now is what it will hold.
  report.begin(estimate, peak_memory_bytes(model.device()), steps_before);
  const StopOnSignal signals;
  const TrainEnd end = trainer.run();
  report.end(end, trainer.num_steps());
  return end == TrainEnd::kStopped ? kExitFailure : kExitOk;
}

}  // namespace

void register_train(CLI::App& root, Exit& exit) {
  const auto options = std::make_shared<Options>();
  CLI::App& command = add_command(
      root, "train", "Train a language model on text",
      {{"coluber train --data book.txt --out model", "bytes, five minutes"},
       {"coluber train --data book.txt --tokenizer train:2048 --max-seconds 600 --out model",
        "a vocabulary of its own"},
       {"coluber train --data a.jsonl --preset mamba-130m --dtype bf16 --max-steps 10000 --out model", "a larger one"},
       {"coluber train --resume model", "on from the newest checkpoint, to the same bits as without the stop"}});
  command.footer(command.get_footer() +
                 "\nCtrl-C saves a checkpoint, says how to go on, and ends with exit code 1; twice ends at once.");
  options->bindings = add_train_flags(command, *options);
  command.callback([options, &exit] { exit.code = guarded(*options, [&] { return run(*options); }); });
}

}  // namespace coluber::apps
