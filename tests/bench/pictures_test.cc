// bench/pictures: what is drawn follows from what is stored, to the byte; the pictures of docs/ are up to date.
#include <filesystem>

#include "tests/bench/script.h"

namespace coluber::testing {
namespace {

constexpr const char* kPictures[] = {"time_by_length.svg", "decode_by_batch.svg", "shares.svg"};

class Pictures : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!has_python()) GTEST_SKIP() << "python3 is not installed";
  }
  TemporaryFolder folder_;
};

TEST_F(Pictures, OfTheDocumentationFollowFromTheirRows) {
  const std::string stored = std::string(COLUBER_SOURCE_DIR) + "/docs/performance/";
  const ScriptOutcome outcome = run_script("bench/pictures", {"draw", "--out", folder_ / ""});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  for (const char* picture : kPictures) {
    EXPECT_EQ(read_bytes(folder_ / picture), read_bytes(stored + picture)) << picture << ": run bench/pictures draw";
  }
}

// One row of each kind: a bar as long as its share, a point at its place.
TEST_F(Pictures, ShowWhatTheRowsSay) {
  write_bytes(folder_ / "cpu.jsonl",
              R"({"bench": "machine", "machine": {"cpu": "an <old> one", "threads": 3}}
{"bench": "ops", "op": "copy", "shape": "4 x 4", "seconds_best": 4.0, "floor_seconds": 1.0, "floor_limit": "bytes"}
{"bench": "ops", "op": "selective_scan_forward", "shape": "b 1 l 2048 d 99 n 4", "seconds_best": 9.0, "floor_seconds": 1.0, "floor_limit": "arithmetic"}
{"bench": "ops", "op": "selective_scan_forward", "shape": "b 1 l 1024 d 8 n 4", "seconds_best": 1e-3, "floor_seconds": 5e-4, "floor_limit": "arithmetic"}
{"bench": "ops", "op": "selective_scan_forward", "shape": "b 1 l 4096 d 8 n 4", "seconds_best": 4e-3, "floor_seconds": 2e-3, "floor_limit": "arithmetic"}
{"bench": "decode", "preset": "tiny", "dtype": "f32", "batch": 1, "seconds_best": 0.001, "floor_seconds": 0.0005}
{"bench": "decode", "preset": "tiny", "dtype": "f32", "batch": 4, "seconds_best": 0.002, "floor_seconds": 0.001}
)");
  const ScriptOutcome outcome = run_script("bench/pictures", {"draw", "--rows", folder_ / "", "--out", folder_ / ""});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const std::string bars = read_bytes(folder_ / "shares.svg"), lines = read_bytes(folder_ / "time_by_length.svg");
  EXPECT_NE(bars.find(">25%<"), std::string::npos);
  EXPECT_NE(bars.find("width=\"122.5\""), std::string::npos) << bars;  // a quarter of 490 pixels
  EXPECT_NE(bars.find("an &lt;old&gt; one, 3 threads"), std::string::npos);
  EXPECT_NE(lines.find("CPU scan forward"), std::string::npos);
  EXPECT_NE(lines.find("d=\"M70.0 408.0L670.0 "), std::string::npos)
      << lines;  // two lengths, of one number of channels
  EXPECT_NE(read_bytes(folder_ / "decode_by_batch.svg").find("CPU tiny f32, floor"), std::string::npos);
}

TEST_F(Pictures, OfNothingAreRefused) {
  const ScriptOutcome outcome = run_script("bench/pictures", {"draw", "--rows", folder_ / "", "--out", folder_ / ""});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_NE(outcome.err.find("expected cpu.jsonl or cuda.jsonl, got neither"), std::string::npos) << outcome.err;
}

}  // namespace
}  // namespace coluber::testing
