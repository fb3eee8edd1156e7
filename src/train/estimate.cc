// What a training will need, measured by doing a little of it.
#include <algorithm>
#include <array>
#include <cmath>

#include "core/check.h"
#include "train/trainer_impl.h"

namespace coluber {
namespace {

constexpr double kTrialSeconds = 1.5;  // trial steps go on for so long, but
constexpr int kMinTrials = 2;          // at least so many are timed
constexpr int kMaxTrials = 9;

Tensor cut(const Tensor& rows, std::int64_t b, std::int64_t l) {  // (b,l) of the upper left corner
  return rows.defined() ? rows.slice(0, 0, b).slice(1, 0, l).contiguous() : rows;
}

std::string mebibytes(std::int64_t bytes) {
  return join((bytes + (1 << 20) - 1) >> 20, " MiB");
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

// Most tensor memory of a device above what is live now while `work` runs.
template <class Work>
std::int64_t peak_of(Device device, Work&& work) {
  const std::int64_t before = memory_stats(device).live_bytes;
  reset_memory_peak(device);
  work();
  return memory_stats(device).peak_bytes - before;
}

}  // namespace

// What a pass over a batch takes, a + c tokens, from passes over two small parts.
Trainer::Impl::PassBytes Trainer::Impl::predict_pass_bytes(const Batch& batch) {
  const std::int64_t l = batch.ids.size(1);
  const auto pass_bytes = [&](std::int64_t length) {
    Batch part{cut(batch.ids, 1, length), cut(batch.targets, 1, length), {}};
    part.sequences.resets = cut(batch.sequences.resets, 1, length);
    const std::int64_t peak = peak_of(model.device(), [&] {
      queued == nullptr ? static_cast<void>(accumulate_gradients({part}, state.next_batch))
                        : queued->run_pass(part, state.next_batch);
    });
    optimizer.drop_gradients();
    return peak;
  };
  std::array<std::int64_t, 2> tokens = {std::min<std::int64_t>(l, 32), std::min<std::int64_t>(l, 128)}, bytes{};
  pass_bytes(tokens[0]);  // scratch memory that stays comes into being
  for (std::size_t i = 0; i < 2; ++i) bytes[i] = pass_bytes(tokens[i]);
  const double whole = static_cast<double>(bytes[1]);
  if (tokens[0] == tokens[1]) return {0, whole / static_cast<double>(l)};
  const double slope = static_cast<double>(bytes[1] - bytes[0]) / static_cast<double>(tokens[1] - tokens[0]);
  return {whole - slope * static_cast<double>(tokens[1]), slope};
}

void Trainer::Impl::refuse_what_does_not_fit(const Batch& batch, std::int64_t available_bytes) {
  if (available_bytes <= 0 || batch.sequences.cu_seqlens.defined()) return;
  const PassBytes pass = predict_pass_bytes(batch);
  const std::int64_t b = batch.ids.size(0), l = batch.ids.size(1);
  const auto need = static_cast<std::int64_t>(pass.fixed + pass.of_token * static_cast<double>(b * l));
  if (need <= available_bytes) return;
  const double tokens = (static_cast<double>(available_bytes) - pass.fixed) / std::max(pass.of_token, 1.0);
  const auto fit = static_cast<std::int64_t>(std::clamp(tokens, 0.0, static_cast<double>(b * l)));
  const std::string smaller = fit >= l ? join("a batch of ", fit / l, " would fit, with more gradient accumulation")
                                       : join("one sequence of ", fit, " tokens would fit");
  const std::int64_t live = memory_stats(model.device()).live_bytes;
  refuse_value(ErrorCode::kOutOfMemory, "train", "free memory",
               join(mebibytes(need), " for gradients and activations of a batch of ", b, " x ", l, " tokens, beside ",
                    mebibytes(live), " of model and optimiser"),
               mebibytes(available_bytes),
               options.recompute == Recompute::kLayer ? smaller : smaller + ", and recompute = layer needs less");
}

// Evaluates one held-out batch: sets eval_seconds of all, returns the bytes it took.
std::int64_t Trainer::Impl::measure_evaluation() {
  const Batch batch = heldout(0);
  const Stopwatch watch;
  const std::int64_t bytes = peak_of(model.device(), [&] { evaluate_batch(batch); });
  eval_seconds = watch.seconds() * static_cast<double>(options.eval_batches);
  return bytes;
}

TrainEstimate Trainer::estimate(std::int64_t available_bytes) {
  Impl& in = *impl_;
  in.finish_steps(0);
  TrainEstimate estimate;
  estimate.parameter_bytes = in.model.size_bytes();
  estimate.optimizer_bytes = in.optimizer.size_bytes();
  const std::vector<Batch> batches = in.batches_of_step();
  in.refuse_what_does_not_fit(batches.front(), available_bytes);

  const auto trial = [&] {
    const Stopwatch watch;
    if (in.queued == nullptr) {
      in.accumulate_gradients(batches, in.state.next_batch);
      in.optimizer.rehearse(in.ctx);
    } else if (const double loss = in.queued->rehearse(batches, in.state.next_batch).loss; !std::isfinite(loss)) {
      in.refuse_not_finite("loss", in.state.step + 1, loss);
    }
    return watch.seconds();
  };
  const std::int64_t live = memory_stats(in.model.device()).live_bytes;
  std::vector<double> seconds;
  std::int64_t above = peak_of(in.model.device(), [&] {
    const Stopwatch watch;
    trial();  // touches memory for the first time: slower than all that follow
    while (static_cast<int>(seconds.size()) < kMinTrials ||
           (watch.seconds() < kTrialSeconds && static_cast<int>(seconds.size()) < kMaxTrials)) {
      seconds.push_back(trial());
    }
  });
  estimate.step_seconds = median(seconds);
  if (in.options.eval_batches > 0) above = std::max(above, in.measure_evaluation());
  estimate.eval_seconds = in.eval_seconds;
  estimate.peak_bytes = live + above;
  in.estimated = estimate;
  if (!in.clock) {  // else a run is under way, and counts on
    in.seconds_before = in.state.seconds;
    in.steps_before = in.state.step;
  }
  in.plan();
  in.choose_intervals();
  const std::int64_t steps = std::max<std::int64_t>(in.state.schedule.total_steps - in.state.step, 0);
  const std::int64_t evals =
      in.options.eval_batches == 0 ? 0 : 1 + (in.options.eval_every > 0 ? (steps - 1) / in.options.eval_every : 0);
  estimate.cuda_graph = in.queued != nullptr && in.queued->is_recorded();
  estimate.total_steps = in.state.schedule.total_steps;
  estimate.total_seconds =
      static_cast<double>(steps) * estimate.step_seconds + static_cast<double>(evals) * estimate.eval_seconds;
  in.estimated = estimate;
  return estimate;
}

}  // namespace coluber
