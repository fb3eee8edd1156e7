// bench/compare: turns, ratios, refusals; and once with our own program at tiny sizes.
#include <filesystem>

#include "tests/bench/script.h"

namespace coluber::testing {
namespace {

class Compare : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!has_python()) GTEST_SKIP() << "python3 is not installed";
  }
  // A benchmark: a shell script that notes its name in `log` first.
  std::string program(const std::string& name, const std::string& body) {
    const std::string path = folder_ / name;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    write_bytes(path, "#!/bin/sh\necho " + name + " \"$@\" >>" + (folder_ / "log") + "\n" + body);
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    return path;
  }
  std::string log() const { return read_bytes(folder_ / "log"); }

  TemporaryFolder folder_;
};

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_F(Compare, TakesTurnsAndGivesRatios) {
  const std::string old = program("old", "echo words; echo '{\"case\": \"a\", \"ms\": 1}'; echo '{\"other\": 1}'\n");
  const std::string now = program("new", "echo '{\"case\": \"a\", \"ms\": 0.5, \"copy_us\": 7}'\n");
  const ScriptOutcome outcome =
      run_script("bench/compare", {old, now, "--rounds", "3", "--json", "--", "some", "part"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(log(), "old some part\nnew some part\nnew some part\nold some part\nold some part\nnew some part\n");
  for (const char* part : {"\"row\": {\"case\": \"a\"}", "\"ratio\": 0.5", "\"ratio_low\": 0.5", "\"ratio_high\": 0.5",
                           "\"rounds\": 3", "\"change\": \"faster\"", "\"new_seconds\": 0.0005"}) {
    EXPECT_TRUE(has(outcome.out, part)) << part << " in " << outcome.out;
  }
}

// Times that differ from run to run: the range holds 1, so there is no verdict. The median is of ratios of a round.
TEST_F(Compare, SaysNothingWithinTheSpread) {
  const std::string old = program("old", "echo '{\"bench\": \"x\", \"batch\": 1, \"seconds_best\": 2}'\n");
  const std::string count = "n=$(grep -c new " + (folder_ / "log") + ")\n";
  const std::string now =
      program("new", count + "echo \"{\\\"bench\\\": \\\"x\\\", \\\"batch\\\": 1, \\\"seconds_best\\\": $n}\"\n");
  const ScriptOutcome outcome = run_script("bench/compare", {old, now, "--rounds", "3"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(has(outcome.out, "x batch 1")) << outcome.out;
  EXPECT_TRUE(has(outcome.out, "1.000  0.500 to 1.500")) << outcome.out;
  EXPECT_FALSE(has(outcome.out, "faster") || has(outcome.out, "slower")) << outcome.out;
}

TEST_F(Compare, RowsThatOnlyOneHasAreLeftOut) {
  const std::string old = program("old", "echo '{\"case\": \"a\", \"ms\": 1}'; echo '{\"case\": \"b\", \"ms\": 1}'\n");
  const std::string now = program("new", "echo '{\"case\": \"a\", \"ms\": 2}'\n");
  const ScriptOutcome outcome = run_script("bench/compare", {old, now, "--rounds", "1"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(has(outcome.err, "only one has them: 1 rows")) << outcome.err;
  EXPECT_TRUE(has(outcome.out, "2.000") && has(outcome.out, "slower")) << outcome.out;
}

TEST_F(Compare, FindsProgramsInBuildFolders) {
  program("before/bench/matmul", "echo '{\"case\": \"a\", \"ms\": 4}'\n");
  program("after/bench/matmul", "echo '{\"case\": \"a\", \"ms\": 1}'\n");
  const ScriptOutcome outcome =
      run_script("bench/compare", {folder_ / "before", folder_ / "after", "--program", "matmul", "--rounds", "1"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(has(outcome.out, "0.250")) << outcome.out;
}

TEST_F(Compare, RefusesInOneSentence) {
  const std::string good = program("good", "echo '{\"case\": \"a\", \"ms\": 4}'\n");
  const auto refused = [&](const std::vector<std::string>& arguments, int code, const std::string& part) {
    const ScriptOutcome outcome = run_script("bench/compare", arguments);
    EXPECT_EQ(outcome.code, code) << outcome.out;
    EXPECT_TRUE(has(outcome.err, part)) << part << " in " << outcome.err;
    EXPECT_EQ(outcome.out, "");
  };
  refused({good, program("silent", "echo nothing\n")}, 1, "expected lines of JSON");
  refused({good, program("broken", "echo no memory >&2; exit 3\n")}, 1, "ended with 3: no memory");
  refused({good, program("twice", "echo '{\"case\": \"a\", \"ms\": 4}'; echo '{\"case\": \"a\", \"ms\": 5}'\n")}, 1,
          "there twice");
  refused({good, program("other", "echo '{\"case\": \"z\", \"ms\": 4}'\n")}, 1, "rows that both have");
  refused({good, folder_ / "nowhere"}, 2, "expected a program");
  refused({good, good, "--rounds", "0"}, 2, "--rounds: expected 1 or more");
}

#ifdef COLUBER_PROGRAM
TEST_F(Compare, OurProgramWithItself) {
  const ScriptOutcome outcome = run_script(
      "bench/compare", {COLUBER_PROGRAM, COLUBER_PROGRAM, "--rounds", "1", "--json", "--", "decode", "--preset", "tiny",
                        "--batch", "1,2", "--seconds", "0.01", "--device", "cpu", "--threads", "1"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(std::count(outcome.out.begin(), outcome.out.end(), '\n'), 2) << outcome.out;
  EXPECT_TRUE(has(outcome.out, "\"batch\": 2")) << outcome.out;
}
#endif

}  // namespace
}  // namespace coluber::testing
