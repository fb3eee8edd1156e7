#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <numbers>

#include "coluber/train.h"
#include "core/atomic_file.h"
#include "core/check.h"
#include "train/loss_picture.h"
#include "train/model_card.h"
#include "train/trainer_impl.h"

namespace coluber {
namespace {

constexpr std::int64_t kMaxAutoWarmup = 1000;  // steps
constexpr std::int64_t kStepsToTrust = 3;      // after these the measured rate replaces the estimate
constexpr std::int64_t kAutoEvals = 10, kAutoSamples = 3;
constexpr double kAutoSaveSeconds = 600;
constexpr double kMostSteps = 1e15;  // of what time allows: more than anybody's, and far from overflow

void check_at_least(std::string_view what, std::int64_t value, std::int64_t least) {
  if (value < least) refuse_value(ErrorCode::kInvalidArgument, "train", what, join(least, " or more"), join(value));
}

bool due(std::int64_t step, std::int64_t every) {
  return every > 0 && step % every == 0;
}

}  // namespace

void TrainOptions::check() const {
  Schedule with_warmup = schedule;
  with_warmup.warmup_steps = std::max<std::int64_t>(schedule.warmup_steps, 0);
  with_warmup.check();
  adamw.check();
  check_at_least("max_steps", max_steps, 0);
  if (!(max_seconds >= 0) || !std::isfinite(max_seconds)) {
    refuse_value(ErrorCode::kInvalidArgument, "train", "max_seconds", "a number of 0 or more", join(max_seconds));
  }
  if (max_steps == 0 && max_seconds == 0) {
    refuse(ErrorCode::kInvalidArgument, "train", "limit: expected max_steps or max_seconds above 0, got neither");
  }
  if (compute != DType::kF32 && compute != DType::kBF16) {
    refuse_value(ErrorCode::kInvalidArgument, "train", "compute", "f32 or bf16", dtype_name(compute));
  }
  check_at_least("warmup_steps", schedule.warmup_steps, -1);
  check_at_least("grad_accum", grad_accum, 1);
  check_at_least("eval_every", eval_every, -1);
  check_at_least("eval_batches", eval_batches, 0);
  check_at_least("save_every", save_every, -1);
  check_at_least("sample_every", sample_every, -1);
  check_at_least("keep", keep, 1);
}

Trainer::Impl::Impl(Context& context, const Model& trained, Batches train, TrainOptions chosen, Batches held,
                    TrainCallbacks calls)
    : ctx(context),
      model(trained),
      batches(std::move(train)),
      heldout(std::move(held)),
      options(std::move(chosen)),
      callbacks(std::move(calls)),
      optimizer(model.parameters(), options.adamw),
      lock(options.lock) {
  options.check();
  if (options.eval_batches > 0 && !heldout) {
    refuse_value(ErrorCode::kInvalidArgument, "train", "heldout", "a source of batches, for eval_batches > 0", "none");
  }
  if (!model.device().is_cpu()) {
    queued = std::make_unique<QueuedStep>(
        ctx, model, optimizer,
        QueuedStep::Options{options.compute, options.recompute, options.seed, options.cuda_graph});
  }
  state.seed = options.seed;
  state.grad_accum = options.grad_accum;
  state.schedule = options.schedule;
  state.data = options.data;
  state.settings = options.settings;
}

// --- how long --------------------------------------------------------------------------------------------------------
double Trainer::Impl::seconds_so_far() const {
  return seconds_before + (clock ? clock->seconds() : 0);
}

void Trainer::Impl::plan() {
  std::int64_t total = options.max_steps > 0 ? options.max_steps : std::numeric_limits<std::int64_t>::max();
  if (options.max_seconds > 0) {
    // Evaluations and checkpoints on the way are in the measured rate; the last ones are set aside.
    const std::int64_t finished = state.step - static_cast<std::int64_t>(started.size()),
                       done = finished - steps_before;
    double step_seconds = estimated ? estimated->step_seconds : 0;
    if (options.eval_every > 0) step_seconds += eval_seconds / static_cast<double>(options.eval_every);
    if (clock && done >= kStepsToTrust) step_seconds = clock->seconds() / static_cast<double>(done);
    const double evals = options.eval_every < 0 ? kAutoEvals : 1;
    const double left = options.max_seconds - seconds_so_far() - evals * eval_seconds;
    const double steps = std::min(std::max(left, 0.0) / std::max(step_seconds, 1e-9), kMostSteps);
    total = std::min(total, std::max(finished + static_cast<std::int64_t>(steps), state.step));
  }
  state.schedule.total_steps = std::max<std::int64_t>(total, 1);
}

void Trainer::Impl::settle_schedule() {
  plan();
  if (state.schedule.warmup_steps < 0) {
    state.schedule.warmup_steps = std::clamp<std::int64_t>(state.schedule.total_steps / 20, 1, kMaxAutoWarmup);
  }
  has_schedule = true;
}

void Trainer::Impl::choose_intervals() {
  const std::int64_t total = state.schedule.total_steps;
  if (options.eval_every < 0) options.eval_every = std::max<std::int64_t>(1, (total + kAutoEvals - 1) / kAutoEvals);
  if (options.sample_every < 0) {
    options.sample_every = std::max<std::int64_t>(1, (total + kAutoSamples - 1) / kAutoSamples);
  }
}

bool Trainer::Impl::save_is_due() const {
  if (options.out.empty()) return false;
  if (options.save_every >= 0) return due(state.step, options.save_every);
  return clock->seconds() - saved_at_seconds >= kAutoSaveSeconds;
}

bool Trainer::Impl::finished() const {
  return state.step >= state.schedule.total_steps;
}

// Whether `checkpoint` is one of OUT.
bool Trainer::Impl::is_of_out(const std::string& checkpoint) const {
  std::error_code ignored;
  return std::filesystem::equivalent(checkpoint + "/..", options.out + "/checkpoints", ignored);
}

void Trainer::Impl::claim_out() {
  if (!lock) lock = lock_training(options.out);
  if (has_out) return;
  if (resumed && is_of_out(last_checkpoint)) {
    set_newer_checkpoints_aside(options.out, state.step);
  } else {
    if (const auto there = list_checkpoints(options.out); !there.empty()) {
      refuse_value(ErrorCode::kInvalidArgument, "train", "out", "a folder without checkpoints", there.back().second,
                   "resume from it or choose another folder");
    }
    if (std::filesystem::exists(options.out + "/config.json")) {
      refuse_value(ErrorCode::kInvalidArgument, "train", "out", "a folder without a model",
                   options.out + "/config.json", "choose another folder");
    }
    state.metrics_bytes = 0;  // those of a checkpoint from elsewhere stay there
  }
  has_out = true;
}

void Trainer::Impl::begin() {
  clock.emplace();
  seconds_before = state.seconds;
  steps_before = state.step;
  saved_at_seconds = 0;
  settle_schedule();
  choose_intervals();
  if (options.out.empty()) return;
  claim_out();
  if (!metrics) metrics.emplace(options.out + "/metrics.jsonl", state.metrics_bytes, &history);
}

void Trainer::Impl::end() {
  clock.reset();
  lock = options.lock;
}

// --- the loop --------------------------------------------------------------------------------------------------------
Trainer::Trainer(Context& ctx, const Model& model, Batches batches, TrainOptions options, Batches heldout,
                 TrainCallbacks callbacks)
    : impl_(std::make_unique<Impl>(ctx, model, std::move(batches), std::move(options), std::move(heldout),
                                   std::move(callbacks))) {}
Trainer::~Trainer() = default;

void Trainer::resume(const std::string& checkpoint) {
  Impl& in = *impl_;
  TrainerState state = read_trainer_state(checkpoint);
  check_equal("train", "grad_accum of the checkpoint", in.options.grad_accum, state.grad_accum,
              "the order of the data depends on it");
  if (state.seed != in.options.seed) {
    refuse_value(ErrorCode::kInvalidArgument, "train", "seed", join(state.seed, ", as in ", checkpoint),
                 join(in.options.seed));
  }
  if (!state.data.empty() && !in.options.data.empty() && state.data != in.options.data) {
    refuse_value(ErrorCode::kInvalidArgument, "train", "data", join(state.data, ", as in ", checkpoint),
                 in.options.data, "a training goes on with the data that it began with; start a new one for others");
  }
  in.finish_after_error();  // steps under way when something went wrong
  read_checkpoint(checkpoint, state, in.model, in.optimizer);
  const std::int64_t warmup = state.schedule.warmup_steps;
  state.schedule = in.options.schedule;
  if (state.schedule.warmup_steps < 0) state.schedule.warmup_steps = warmup;
  if (!in.options.data.empty()) state.data = in.options.data;
  state.settings = in.options.settings;
  in.state = state;
  in.resumed = true;
  in.has_schedule = in.has_out = false;
  in.metrics.reset();
  in.history = {};
  in.evaluated_at = -1;
  in.last_checkpoint = checkpoint;
  in.saved_at = state.step;
}

LossSum Trainer::Impl::evaluate_batch(const Batch& batch) const {
  ForwardOptions forward;
  forward.sequences = batch.sequences;
  forward.compute = options.compute;
  LossSum loss;
  const auto evaluate = [&] { loss = model.evaluate(ctx, batch.ids, batch.targets, forward); };
  queued == nullptr ? evaluate() : queued->run(evaluate);
  return loss;
}

EvalReport Trainer::evaluate() {
  Impl& in = *impl_;
  in.finish_steps(0);
  const Stopwatch watch;
  EvalReport report;
  report.step = in.state.step;
  for (std::int64_t i = 0; i < in.options.eval_batches; ++i) {
    const LossSum part = in.evaluate_batch(in.heldout(i));
    report.loss.nats += part.nats;
    report.loss.num_tokens += part.num_tokens;
  }
  if (!std::isfinite(report.loss.nats)) in.refuse_not_finite("held-out loss", report.step, report.loss.nats);
  if (in.options.bytes_per_token > 0) {
    report.bits_per_byte = report.loss.mean() / std::numbers::ln2 / in.options.bytes_per_token;
  }
  in.eval_seconds = watch.seconds();
  in.evaluated_at = in.state.step;
  in.history.heldout.push_back({report.step, report.loss.mean()});
  if (in.metrics) in.metrics->write(report);
  if (in.callbacks.on_eval) in.callbacks.on_eval(report);
  return report;
}

std::string Trainer::save() {
  Impl& in = *impl_;
  in.finish_steps(0);
  if (in.options.out.empty()) {
    refuse(ErrorCode::kInvalidArgument, "train", "out: expected a folder for checkpoints, got none");
  }
  in.claim_out();
  for (const Parameter& parameter : in.optimizer.parameters()) {
    const double squares = ops::sum_of_squares(in.ctx, parameter.var.value());
    if (!std::isfinite(squares)) in.refuse_not_finite("sum of squares of " + parameter.name, in.state.step, squares);
  }
  if (in.metrics) {
    in.metrics->sync();
    in.state.metrics_bytes = in.metrics->size_bytes();
  }
  in.last_checkpoint =
      write_checkpoint(in.options.out, in.model, in.optimizer, in.state, in.options.keep, in.callbacks.add_files);
  in.saved_at = in.state.step;
  if (in.clock) in.saved_at_seconds = in.clock->seconds();
  in.write_picture();
  if (in.callbacks.on_checkpoint) in.callbacks.on_checkpoint(in.last_checkpoint);
  return in.last_checkpoint;
}

TrainEnd Trainer::run() {
  Impl& in = *impl_;
  if (in.options.max_seconds > 0 && !in.estimated) estimate();
  const struct AtEnd {
    Impl& in;
    ~AtEnd() { in.end(); }
  } at_end{in};
  in.begin();
  bool stopped = false;
  while (!in.finished() && !stopped) {
    stopped = in.callbacks.should_stop && in.callbacks.should_stop();
    if (stopped) break;
    try {
      in.start_step();
    } catch (...) {
      in.finish_after_error();
      throw;
    }
    in.finish_steps(in.queued != nullptr ? 1 : 0);
    const std::int64_t now = in.state.step;
    if (due(now, in.options.eval_every) && in.options.eval_batches > 0) evaluate();
    if (due(now, in.options.sample_every) && in.callbacks.on_sample) {
      in.finish_steps(0);
      in.callbacks.on_sample(now);
    }
    if (in.save_is_due()) save();
  }
  in.finish_steps(0);
  if (!stopped && in.options.eval_batches > 0 && in.evaluated_at != in.state.step) evaluate();
  if (!in.options.out.empty()) {
    if (in.saved_at != in.state.step) save();
    in.write_result(!stopped);
  }
  return stopped ? TrainEnd::kStopped : TrainEnd::kDone;
}

void Trainer::Impl::write_picture() const {
  LossCurves curves{options.name, history.train, history.heldout};
  write_file_atomically(options.out + "/loss.svg", draw_loss_picture(curves));
}

void Trainer::Impl::write_result(bool done) {
  SaveOptions save;
  save.layout = model.config().layout;
  model.save(options.out, save);
  if (callbacks.add_files) callbacks.add_files(options.out);
  write_picture();
  ModelCard card;
  card.name = options.name;
  card.rows = options.card_rows;
  const std::size_t last =
      std::min<std::size_t>(history.train.size(), std::max<std::size_t>(history.train.size() / 40, 1));
  for (std::size_t i = history.train.size() - last; i < history.train.size(); ++i) {
    card.train_loss += history.train[i].loss / static_cast<double>(last);
  }
  card.has_train = !history.train.empty();
  card.has_heldout = !history.heldout.empty();
  if (card.has_heldout) card.heldout_loss = history.heldout.back().loss;
  card.bytes_per_token = options.bytes_per_token;
  card.steps = state.step;
  card.tokens = state.tokens;
  card.seconds = state.seconds;
  card.finished = done;
  write_file_atomically(options.out + "/README.md", write_model_card(card, model, options));
}

std::int64_t Trainer::num_steps() const {
  return impl_->state.step;
}
const std::vector<LossPoint>& Trainer::train_losses() const {
  return impl_->history.train;
}
const std::vector<LossPoint>& Trainer::heldout_losses() const {
  return impl_->history.heldout;
}

}  // namespace coluber
