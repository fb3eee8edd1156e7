#include "train/metrics.h"

#include "tests/train/training.h"

namespace coluber {
namespace {

namespace fs = std::filesystem;
using namespace coluber::testing;

StepReport step_report(std::int64_t step) {
  StepReport report;
  report.step = step;
  report.loss = 5.0 / static_cast<double>(step);
  return report;
}

TEST(Metrics, AreCutWhereACheckpointWasWrittenAndReadBack) {
  const TemporaryFolder folder;
  const std::string path = folder / "metrics.jsonl";
  std::int64_t bytes = 0;
  {
    MetricsFile metrics(path, 0);
    metrics.write(step_report(1));
    metrics.write(EvalReport{1, {30, 10}});
    metrics.write(step_report(2));
    bytes = metrics.size_bytes();
    metrics.write(step_report(3));
  }
  MetricsHistory history;
  MetricsFile metrics(path, bytes, &history);
  metrics.write(step_report(4));
  ASSERT_EQ(history.train.size(), 2u);
  EXPECT_EQ(history.train[1].step, 2);
  EXPECT_EQ(history.train[1].loss, 2.5);
  ASSERT_EQ(history.heldout.size(), 1u);
  EXPECT_EQ(history.heldout[0].loss, 3);
  const std::string text = read_bytes(path);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 4);
  EXPECT_EQ(static_cast<std::int64_t>(text.size()), metrics.size_bytes());
  EXPECT_NE(text.find("{\"step\":4,\"loss\":1.25"), std::string::npos);
}

TEST(Metrics, KeepTheWholeLinesThatAPowerCutLeft) {
  const TemporaryFolder folder;
  const std::string path = folder / "metrics.jsonl";
  std::int64_t bytes = 0, of_two = 0;
  {
    MetricsFile metrics(path, 0);
    metrics.write(step_report(1));
    metrics.write(step_report(2));
    of_two = metrics.size_bytes();
    metrics.write(step_report(3));
    bytes = metrics.size_bytes();
  }
  for (const std::int64_t cut : {of_two + 9, of_two}) {
    fs::resize_file(path, static_cast<std::uintmax_t>(cut));
    MetricsHistory history;
    const MetricsFile metrics(path, bytes, &history);
    ASSERT_EQ(history.train.size(), 2u);
    EXPECT_EQ(history.train[1].step, 2);
    EXPECT_EQ(metrics.size_bytes(), of_two);
    EXPECT_EQ(read_bytes(path).size(), static_cast<std::size_t>(of_two));
  }
}

TEST(Metrics, StartAnewWithoutTheFileOfBefore) {
  const TemporaryFolder folder;
  MetricsHistory history;
  MetricsFile metrics(folder / "metrics.jsonl", 1000, &history);
  EXPECT_TRUE(history.train.empty());
  EXPECT_EQ(metrics.size_bytes(), 0);
}

TEST(Metrics, RefuseAFullDiskAndAMissingFolder) {
  EXPECT_NE(refusal(ErrorCode::kIo, [] { MetricsFile metrics("/nowhere/metrics.jsonl", 0); }).find("/nowhere"),
            std::string::npos);
  MetricsFile full("/dev/full", 0);
  EXPECT_NE(refusal(ErrorCode::kIo, [&] { full.write(step_report(1)); }).find("space"), std::string::npos);
}

}  // namespace
}  // namespace coluber
