// A step of Trainer: on the CPU from its batches to the updated parameters, on a GPU begun and, a step later, finished.
#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "train/trainer_impl.h"

namespace coluber {
namespace {

std::int64_t counted_targets(const Tensor& targets) {
  const Tensor flat = targets.contiguous();
  const std::int32_t* id = flat.data<std::int32_t>();
  return std::count_if(id, id + flat.numel(), [](std::int32_t target) { return target >= 0; });
}

}  // namespace

std::vector<Batch> Trainer::Impl::batches_of_step() const {
  std::vector<Batch> all;
  for (std::int64_t i = 0; i < options.grad_accum; ++i) all.push_back(batches(state.next_batch + i));
  return all;
}

Trainer::Impl::Pass Trainer::Impl::accumulate_gradients(const std::vector<Batch>& all, std::int64_t first_index) {
  std::int64_t total = 0;
  for (const Batch& batch : all) total += counted_targets(batch.targets);
  optimizer.drop_gradients();  // of a pass that was refused halfway, or of the caller's own
  Pass pass;
  Tensor token_weight;
  if (all.size() > 1) token_weight = Tensor::full({}, total > 0 ? 1 / static_cast<double>(total) : 0, DType::kF64);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const Batch& batch = all[i];
    Tape tape;
    Graph graph{ctx, &tape, true, options.compute, state.seed};
    graph.recompute = options.recompute;
    graph.dropout_stream = (static_cast<std::uint64_t>(first_index) + i) * kDropoutsPerBatch;
    const Var loss = model.loss(graph, batch.ids, batch.targets, batch.sequences, nullptr, nullptr, token_weight);
    const double value = loss.value().at({});
    if (!std::isfinite(value)) refuse_not_finite("loss", state.step + 1, value);
    pass.loss += value;
    pass.tokens += batch.ids.numel();
    tape.backward(ctx, loss);
  }
  return pass;
}

void Trainer::Impl::refuse_not_finite(std::string_view what, std::int64_t step, double value) const {
  optimizer.drop_gradients();
  refuse_value(
      ErrorCode::kNumeric, "train", join(what, " at step ", step), "a finite number",
      std::isnan(value) ? "NaN" : join(value),
      join(last_checkpoint.empty() ? "no checkpoint was written yet" : "the last good checkpoint is " + last_checkpoint,
           "; a lower learning rate or a longer warm-up may help"));
}

void Trainer::Impl::start_step() {
  Started step;
  step.step = state.step;
  step.next_batch = state.next_batch;
  step.tokens = state.tokens;
  step.lr = state.schedule.at(state.step);
  step.alone = started.empty();
  const std::vector<Batch> all = batches_of_step();
  for (const Batch& batch : all) step.batch_tokens += batch.ids.numel();
  if (queued != nullptr) {
    queued->start(all, state.next_batch, step.lr);
  } else {
    step.loss = accumulate_gradients(all, state.next_batch).loss;
    step.grad_norm = optimizer.step_if_finite(ctx, step.lr);
  }
  state.step += 1;
  state.next_batch += options.grad_accum;
  state.tokens += step.batch_tokens;
  started.push_back(step);
}

StepReport Trainer::Impl::finish_step() {
  Started step = started.front();
  started.pop_front();
  if (queued != nullptr) {
    const QueuedStep::Outcome outcome = queued->finish();
    step.loss = outcome.loss;
    step.grad_norm = outcome.grad_norm;
  }
  if (!std::isfinite(step.loss) || !std::isfinite(step.grad_norm)) {  // neither it nor those begun after it were taken
    started.clear();
    state.step = step.step;
    state.next_batch = step.next_batch;
    state.tokens = step.tokens;
    const bool of_loss = !std::isfinite(step.loss);
    refuse_not_finite(of_loss ? "loss" : "norm of the gradients", step.step + 1, of_loss ? step.loss : step.grad_norm);
  }
  const double seconds = step.alone ? step.watch.seconds() : since_finish.seconds();
  since_finish = Stopwatch();
  state.seconds = clock ? seconds_so_far() : state.seconds + seconds;
  history.train.push_back({step.step + 1, step.loss});
  StepReport report;
  report.step = step.step + 1;
  report.loss = step.loss;
  report.lr = step.lr;
  report.grad_norm = step.grad_norm;
  report.tokens = step.tokens + step.batch_tokens;
  report.seconds = state.seconds;
  report.tokens_per_s = static_cast<double>(step.batch_tokens) / seconds;
  if (clock) plan();
  report.total_steps = state.schedule.total_steps;
  if (metrics) metrics->write(report);
  if (callbacks.on_step) callbacks.on_step(report);
  return report;
}

void Trainer::Impl::finish_steps(std::size_t but) {
  while (started.size() > but) finish_step();
}

// Steps that were begun before something went wrong have happened, and are reported if they still can be.
void Trainer::Impl::finish_after_error() {
  try {
    finish_steps(0);
  } catch (const Error&) {
    started.clear();  // the first error is the one to tell
  }
}

StepReport Trainer::step() {
  Impl& in = *impl_;
  if (!in.has_schedule) {  // not by run()
    if (in.options.max_seconds > 0 && !in.estimated) estimate();
    in.settle_schedule();
  }
  in.start_step();
  in.finish_steps(1);
  return in.finish_step();
}

}  // namespace coluber
