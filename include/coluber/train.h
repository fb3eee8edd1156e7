// Training: learning-rate schedule, AdamW, and the loop with its checkpoints.
//
//   Model model = Model::create(config, seed);
//   Trainer trainer(ctx, model, [&](std::int64_t i) { return batch_number(i); }, {.max_steps = 1000, .out = "model"});
//   trainer.run();
//
// Batches are a pure function of their number, so the whole position in the data is one integer and an interrupted run
// that is resumed ends with the same bits as one that was not.
//
// A checkpoint is a folder OUT/checkpoints/step-N, there whole or not at all: the model and what
// TrainCallbacks::add_files puts beside it, optimizer.safetensors, and trainer.json with checksums of the others.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "coluber/error.h"
#include "coluber/model.h"

namespace coluber {

enum class ScheduleKind : std::uint8_t { kCosine, kLinear, kConstant, kWarmupStableDecay };
std::string_view schedule_name(ScheduleKind kind);  // "cosine", "linear", "constant", "wsd"
ScheduleKind schedule_from_name(std::string_view name);

// Learning rate by step t, counted from 0, with w = warmup_steps, T = total_steps, p = min(1, (t - w) / (T - w)):
//   t < w     lr (t + 1) / w
//   cosine    lr_min + (lr - lr_min) / 2 (1 + cos(pi p))
//   linear    lr_min + (lr - lr_min) (1 - p)
//   constant  lr
//   wsd       lr until the last `decay_steps`, over which it falls to lr_min on a straight line
struct Schedule {
  ScheduleKind kind = ScheduleKind::kCosine;
  double lr = 1e-3;
  double lr_min = 0;
  std::int64_t warmup_steps = 0;
  std::int64_t total_steps = 0;
  std::int64_t decay_steps = 0;  // of wsd; 0: a fifth of total_steps

  double at(std::int64_t step) const;
  void check() const;  // throws kInvalidArgument naming the field
  friend bool operator==(const Schedule&, const Schedule&) = default;
};

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  double weight_decay = 0.1;  // of parameters that say so
  double clip = 1.0;          // largest norm of all gradients together; 0: none
  void check() const;
  friend bool operator==(const AdamWOptions&, const AdamWOptions&) = default;
};

// AdamW over all parameters of a model, with clipping of the global norm.
class AdamW {
 public:
  struct Moments {
    Tensor exp_avg, exp_avg_sq;
  };

  AdamW(Parameters parameters, const AdamWOptions& options);

  // sqrt of the sum of squares of all gradients, in double and in order of the parameters.
  double grad_norm(Context& ctx) const;
  // One update from the gradients, which are dropped afterwards. Returns their norm before clipping. Where that is not
  // finite nothing has changed but the gradients, which are dropped too: step() throws kNumeric, the other does not.
  double step(Context& ctx, double lr);
  double step_if_finite(Context& ctx, double lr);
  // The work of step() without its effect, for timing: every parameter and moment keeps its bits. Only possible before
  // the first step; afterwards it drops the gradients and returns false.
  bool rehearse(Context& ctx);
  void drop_gradients() const;

  std::int64_t num_steps() const { return num_steps_; }
  void set_num_steps(std::int64_t steps) { num_steps_ = steps; }
  const Parameters& parameters() const { return parameters_; }
  const std::vector<Moments>& moments() const { return moments_; }  // in order of the parameters
  std::int64_t size_bytes() const;

 private:
  friend class QueuedStep;                                            // Trainer's step on a GPU
  std::vector<ops::AdamWTensors> tensors(double weight_decay) const;  // that have gradients
  AdamWOptions options_;
  Parameters parameters_;
  std::vector<Moments> moments_;
  std::int64_t num_steps_ = 0;
};

struct Batch {
  Tensor ids;           // (b,l) i32
  Tensor targets;       // (b,l) i32, -1: not counted
  Sequences sequences;  // resets at the borders of documents
};
using Batches = std::function<Batch(std::int64_t index)>;

// One training at a time writes to a folder: Trainer::run and save() lock `out`; who prepares it before locks it and
// gives them the lock. Throws kIo naming folder and process when another has it. That of a killed process is free.
class TrainingLock;
std::shared_ptr<TrainingLock> lock_training(const std::string& out);

struct TrainOptions {
  Schedule schedule;  // total_steps is set by the limits below; warmup_steps -1: a twentieth of them
  AdamWOptions adamw;
  std::int64_t max_steps = 0;   // 0: no such limit
  double max_seconds = 0;       // 0: no such limit; the schedule is stretched to end in time
  std::int64_t grad_accum = 1;  // batches per step
  DType compute = DType::kF32;  // of matrix products: kF32 or kBF16
  Recompute recompute = Recompute::kNone;
  bool cuda_graph = true;              // on a GPU: steps of a shape that was there before are one graph; the same bits
  std::uint64_t seed = 0;              // of dropout
  std::int64_t eval_every = 0;         // steps; 0: only at the end; -1: ten times in all
  std::int64_t eval_batches = 0;       // held-out batches 0 to eval_batches - 1
  double bytes_per_token = 0;          // of the held-out text, for bits per byte; 0: unknown
  std::int64_t save_every = 0;         // steps; 0: only at the end; -1: every ten minutes
  std::int64_t sample_every = 0;       // steps; 0: never; -1: three times in all
  std::int64_t keep = 3;               // newest checkpoints that stay
  std::string out;                     // folder; empty: nothing is written
  std::shared_ptr<TrainingLock> lock;  // of `out`, when the caller has it
  std::string data;                    // tells data apart; a training goes on with the same alone; empty: unknown
  std::string settings;                // JSON of the caller, kept in trainer.json
  std::string name;                    // of the model, for its card and the picture of the loss
  std::vector<std::pair<std::string, std::string>> card_rows;  // more rows of the card: {"Data", "book.txt"}
  void check() const;
};
struct StepReport {
  std::int64_t step = 0;         // finished steps, this one included
  std::int64_t total_steps = 0;  // as planned now
  double loss = 0, lr = 0, grad_norm = 0;
  std::int64_t tokens = 0;  // read so far
  double seconds = 0;       // trained so far, earlier runs of this training included
  double tokens_per_s = 0;  // of this step
};
struct EvalReport {
  std::int64_t step = 0;
  LossSum loss;
  double bits_per_byte = 0;  // 0: unknown
};
struct LossPoint {
  std::int64_t step = 0;
  double loss = 0;  // nats per token
};
// On a GPU run() is a step ahead: on_step comes while the next step is under way, unless something is due between them.
struct TrainCallbacks {
  std::function<void(const StepReport&)> on_step;
  std::function<void(const EvalReport&)> on_eval;
  std::function<void(std::int64_t step)> on_sample;              // every sample_every steps
  std::function<void(const std::string& folder)> on_checkpoint;  // after it was written
  std::function<void(const std::string& folder)> add_files;      // the tokenizer, for example
  std::function<bool()> should_stop;                             // asked before every step
};
struct TrainEstimate {
  std::int64_t parameter_bytes = 0, optimizer_bytes = 0;
  std::int64_t peak_bytes = 0;  // most tensor memory at once: those, gradients and activations
  double step_seconds = 0, eval_seconds = 0, total_seconds = 0;  // of all: training and evaluation
  std::int64_t total_steps = 0;
  bool cuda_graph = false;  // steps are recorded
};

enum class TrainEnd : std::uint8_t { kDone, kStopped };
class Trainer {
 public:
  // The model is trained in place. `heldout` may be empty when eval_batches is 0.
  Trainer(Context& ctx, const Model& model, Batches batches, TrainOptions options, Batches heldout = {},
          TrainCallbacks callbacks = {});
  ~Trainer();

  // Refuses with kOutOfMemory and both numbers what will not fit in `available_bytes` (0: not checked), by passes over
  // small parts of a batch. Then trial steps, which change nothing, are timed.
  TrainEstimate estimate(std::int64_t available_bytes = 0);

  // Continues from a checkpoint folder. Throws kCorruptFile when it is not whole, kInvalidArgument when it belongs to
  // another model or, by TrainOptions::data, to other data.
  void resume(const std::string& checkpoint);

  // Trains to the limit, or until should_stop, and saves; called again, goes on. Refuses an `out` with another model.
  // Throws kNumeric when loss or gradients stop being finite, naming the step and the last checkpoint, which stays.
  TrainEnd run();

  StepReport step();      // one optimiser step, at the rate that run() would take
  EvalReport evaluate();  // over the held-out batches
  std::string save();     // a checkpoint of now; returns its folder
  std::int64_t num_steps() const;
  // Of every step and evaluation; after resume, those before it too when OUT/metrics.jsonl is still there.
  const std::vector<LossPoint>& train_losses() const;
  const std::vector<LossPoint>& heldout_losses() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Of the largest N. Throws kNotFound when there is none, kCorruptFile naming the newest whole one when it is cut.
std::string newest_checkpoint(const std::string& out);
std::string checkpoint_settings(const std::string& checkpoint);  // TrainOptions::settings

}  // namespace coluber
