// The inside of Trainer: loop.cc runs it, estimate.cc measures it before.
#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "train/checkpoint.h"
#include "train/metrics.h"
#include "train/queued_step.h"

namespace coluber {

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

struct Trainer::Impl {
  Impl(Context& context, const Model& trained, Batches train, TrainOptions chosen, Batches held, TrainCallbacks calls);

  struct Pass {
    double loss = 0;  // mean over the targets of all batches
    std::int64_t tokens = 0;
  };
  // Forward and backward over `batches`, numbered from first_index; their gradients are those of the mean loss.
  Pass accumulate_gradients(const std::vector<Batch>& batches, std::int64_t first_index);
  std::vector<Batch> batches_of_step() const;

  // A step that was begun, and how things stood before. On a GPU the host is one ahead of those it has the loss of.
  struct Started {
    std::int64_t step = 0, next_batch = 0, tokens = 0;
    std::int64_t batch_tokens = 0;
    double lr = 0;
    double loss = 0, grad_norm = 0;  // on the CPU
    bool alone = true;               // none was under way when it began
    Stopwatch watch;
  };
  void start_step();
  StepReport finish_step();  // of the oldest
  void finish_steps(std::size_t but);
  void finish_after_error();

  struct PassBytes {
    double fixed = 0, of_token = 0;
  };
  PassBytes predict_pass_bytes(const Batch& batch);
  std::int64_t measure_evaluation();
  LossSum evaluate_batch(const Batch& batch) const;
  void refuse_what_does_not_fit(const Batch& batch, std::int64_t available_bytes);
  void claim_out();  // locks OUT, refuses one that holds something else
  bool is_of_out(const std::string& checkpoint) const;
  void begin();             // opens metrics, plans
  void end();               // what run() had for itself
  void plan();              // how many steps there will be
  void settle_schedule();   // the plan, and the warm-up where the options leave it open
  void choose_intervals();  // of evaluations and samples, where the options leave them open
  bool save_is_due() const;
  bool finished() const;
  double seconds_so_far() const;  // of this training, earlier runs included
  void write_result(bool done);   // the model itself, picture and card, in OUT
  void write_picture() const;
  [[noreturn]] void refuse_not_finite(std::string_view what, std::int64_t step, double value) const;

  Context& ctx;
  Model model;
  Batches batches, heldout;
  TrainOptions options;
  TrainCallbacks callbacks;
  AdamW optimizer;
  std::unique_ptr<QueuedStep> queued;  // of a model on a GPU
  std::deque<Started> started;
  Stopwatch since_finish;  // of the last step
  TrainerState state;
  MetricsHistory history;
  std::optional<MetricsFile> metrics;
  std::optional<TrainEstimate> estimated;
  std::string last_checkpoint;
  std::shared_ptr<TrainingLock> lock;

  bool resumed = false;
  bool has_schedule = false, has_out = false;     // settled, claimed
  std::optional<Stopwatch> clock;                 // since run()
  double seconds_before = 0;                      // of earlier runs
  std::int64_t steps_before = 0;                  // when run() began
  double eval_seconds = 0;                        // of the last evaluation
  double saved_at_seconds = 0;                    // by `clock`
  std::int64_t evaluated_at = -1, saved_at = -1;  // steps
};

}  // namespace coluber
