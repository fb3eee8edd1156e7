#include <algorithm>
#include <cmath>
#include <numbers>

#include "coluber/train.h"
#include "core/check.h"

namespace coluber {
namespace {

constexpr ScheduleKind kKinds[] = {ScheduleKind::kCosine, ScheduleKind::kLinear, ScheduleKind::kConstant,
                                   ScheduleKind::kWarmupStableDecay};

void check_rate(std::string_view what, double value) {
  if (!(value >= 0) || !std::isfinite(value)) {
    refuse_value(ErrorCode::kInvalidArgument, "schedule", what, "a number of 0 or more", join(value));
  }
}

void check_steps(std::string_view what, std::int64_t value) {
  if (value < 0) refuse_value(ErrorCode::kInvalidArgument, "schedule", what, "0 or more", join(value));
}

}  // namespace

std::string_view schedule_name(ScheduleKind kind) {
  switch (kind) {
    case ScheduleKind::kCosine: return "cosine";
    case ScheduleKind::kLinear: return "linear";
    case ScheduleKind::kConstant: return "constant";
    case ScheduleKind::kWarmupStableDecay: return "wsd";
  }
  return "?";
}

ScheduleKind schedule_from_name(std::string_view name) {
  for (const ScheduleKind kind : kKinds) {
    if (schedule_name(kind) == name) return kind;
  }
  refuse_value(ErrorCode::kInvalidArgument, "schedule", "name", "cosine, linear, constant or wsd", name);
}

void Schedule::check() const {
  check_rate("lr", lr);
  check_rate("lr_min", lr_min);
  check_steps("warmup_steps", warmup_steps);
  check_steps("total_steps", total_steps);
  check_steps("decay_steps", decay_steps);
}

double Schedule::at(std::int64_t step) const {
  if (step < warmup_steps) return lr * static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
  const std::int64_t end = std::max(total_steps, warmup_steps);
  // Share done of the `span` last steps; a span of nothing is over at once.
  const auto progress = [&](std::int64_t span) {
    if (span <= 0) return step >= end ? 1.0 : 0.0;
    return std::clamp(static_cast<double>(step - (end - span)) / static_cast<double>(span), 0.0, 1.0);
  };
  switch (kind) {
    case ScheduleKind::kCosine:
      return lr_min + (lr - lr_min) / 2 * (1 + std::cos(std::numbers::pi * progress(end - warmup_steps)));
    case ScheduleKind::kLinear: return lr_min + (lr - lr_min) * (1 - progress(end - warmup_steps));
    case ScheduleKind::kConstant: return lr;
    case ScheduleKind::kWarmupStableDecay: {
      const std::int64_t decay = decay_steps > 0 ? decay_steps : total_steps / 5;
      return lr_min + (lr - lr_min) * (1 - progress(std::min(decay, end - warmup_steps)));
    }
  }
  return lr;
}

}  // namespace coluber
