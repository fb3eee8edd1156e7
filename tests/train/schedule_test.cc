#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "coluber/train.h"

namespace coluber {
namespace {

Schedule make(ScheduleKind kind) {
  Schedule schedule;
  schedule.kind = kind;
  schedule.lr = 0.004;
  schedule.lr_min = 0.0004;
  schedule.warmup_steps = 5;
  schedule.total_steps = 30;
  return schedule;
}

TEST(Schedule, WarmsUpOnAStraightLineThatEndsAtTheFullRate) {
  for (const ScheduleKind kind :
       {ScheduleKind::kCosine, ScheduleKind::kLinear, ScheduleKind::kConstant, ScheduleKind::kWarmupStableDecay}) {
    const Schedule schedule = make(kind);
    for (int t = 0; t < 5; ++t) EXPECT_DOUBLE_EQ(schedule.at(t), 0.004 * (t + 1) / 5) << schedule_name(kind);
    EXPECT_DOUBLE_EQ(schedule.at(5), 0.004) << schedule_name(kind);
  }
}

TEST(Schedule, Cosine) {
  const Schedule schedule = make(ScheduleKind::kCosine);
  for (int t = 5; t < 30; ++t) {
    const double expected = 0.0004 + (0.004 - 0.0004) / 2 * (1 + std::cos(std::numbers::pi * (t - 5) / 25.0));
    EXPECT_DOUBLE_EQ(schedule.at(t), expected);
  }
  EXPECT_DOUBLE_EQ(schedule.at(30), 0.0004);
  EXPECT_DOUBLE_EQ(schedule.at(1000), 0.0004);
}

TEST(Schedule, Linear) {
  const Schedule schedule = make(ScheduleKind::kLinear);
  EXPECT_DOUBLE_EQ(schedule.at(15), 0.0004 + (0.004 - 0.0004) * (1 - 10 / 25.0));
  EXPECT_NEAR(schedule.at(30), 0.0004, 1e-18);
}

TEST(Schedule, Constant) {
  const Schedule schedule = make(ScheduleKind::kConstant);
  EXPECT_EQ(schedule.at(7), 0.004);
  EXPECT_EQ(schedule.at(100000), 0.004);
}

TEST(Schedule, WarmupStableDecayFallsOverItsLastFifth) {
  Schedule schedule = make(ScheduleKind::kWarmupStableDecay);
  EXPECT_DOUBLE_EQ(schedule.at(24), 0.004);
  EXPECT_DOUBLE_EQ(schedule.at(27), 0.0004 + (0.004 - 0.0004) * 0.5);
  EXPECT_NEAR(schedule.at(30), 0.0004, 1e-18);
  schedule.decay_steps = 10;
  EXPECT_DOUBLE_EQ(schedule.at(20), 0.004);
  EXPECT_DOUBLE_EQ(schedule.at(21), 0.0004 + (0.004 - 0.0004) * 0.9);
}

TEST(Schedule, LongerWarmupThanTrainingStaysFinite) {
  Schedule schedule = make(ScheduleKind::kCosine);
  schedule.total_steps = 3;
  for (int t = 0; t < 10; ++t) EXPECT_TRUE(std::isfinite(schedule.at(t)));
  EXPECT_DOUBLE_EQ(schedule.at(5), 0.0004);
}

TEST(Schedule, NamesGoBothWays) {
  for (const char* name : {"cosine", "linear", "constant", "wsd"}) {
    EXPECT_EQ(schedule_name(schedule_from_name(name)), name);
  }
  EXPECT_THROW(schedule_from_name("cosin"), Error);
}

TEST(Schedule, RefusesWhatIsNoNumber) {
  Schedule schedule = make(ScheduleKind::kCosine);
  schedule.lr = std::nan("");
  EXPECT_THROW(schedule.check(), Error);
  schedule = make(ScheduleKind::kCosine);
  schedule.warmup_steps = -1;
  EXPECT_THROW(schedule.check(), Error);
}

}  // namespace
}  // namespace coluber
