// tests/cuda/sanitize, with a compute-sanitizer made up for the purpose: what counts as a finding, and whose it is.
#include <cstdlib>
#include <filesystem>

#include "tests/bench/script.h"

namespace coluber::testing {
namespace {

constexpr const char* kScript = "tests/cuda/sanitize";

class Sanitize : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!has_python()) GTEST_SKIP() << "python3 is not installed";
    path_ = std::getenv("PATH");
    ::setenv("PATH", (folder_.path() + ":" + path_).c_str(), 1);
    tests_ = program("tests", "printf 'Running main()\\nScan.\\n  One\\n  Two  # a row\\nNorm.\\n  All\\n'");
  }
  void TearDown() override {
    if (!path_.empty()) ::setenv("PATH", path_.c_str(), 1);
  }
  std::string program(const std::string& name, const std::string& body) {
    write_bytes(folder_ / name, "#!/bin/sh\n" + body + "\n");
    std::filesystem::permissions(folder_ / name, std::filesystem::perms::owner_all);
    return folder_ / name;
  }
  // `of_test`: what the tool writes of the test whose name is in $name, with the tool's name in $2.
  ScriptOutcome run(const std::string& of_test, std::vector<std::string> arguments) {
    program("compute-sanitizer", "for name in \"$@\"; do :; done; name=${name#--gtest_filter=}\n" + of_test +
                                     "\necho '[  PASSED  ] 1 test.'; echo '========= ERROR SUMMARY: 0 errors'");
    arguments.push_back(tests_);
    return run_script(kScript, arguments);
  }
  static bool has(const ScriptOutcome& outcome, const std::string& part) {
    return outcome.out.find(part) != std::string::npos;
  }

  TemporaryFolder folder_;
  std::string path_, tests_;
};

TEST_F(Sanitize, RunsEveryTestUnderBothTools) {
  const ScriptOutcome outcome = run("echo \"$2 $name $COLUBER_CUDA_CACHE\" >>" + (folder_ / "log"), {"--jobs", "1"});
  EXPECT_EQ(outcome.code, 0) << outcome.out << outcome.err;
  EXPECT_EQ(read_bytes(folder_ / "log"),
            "racecheck Scan.One on\nracecheck Scan.Two on\nracecheck Norm.All on\n"
            "memcheck Scan.One off\nmemcheck Scan.Two off\nmemcheck Norm.All off\n");
  EXPECT_TRUE(has(outcome, "memcheck: 3 of 3 tests passed, 0 found in our kernels, 0 in those of libraries"));
}

TEST_F(Sanitize, TellsOurKernelsFromThoseOfLibraries) {
  const ScriptOutcome outcome = run(
      R"([ $name = Scan.Two ] || exec cat <<'END'
========= COMPUTE-SANITIZER
========= Invalid __global__ read of size 4 bytes
=========     at void coluber::cuda::scan<(int)4>(float *)+0x160 in scan.cu:20
=========     by thread (0,0,0) in block (1,0,0)
=========
========= Error: Race reported between Write access at void nvjet_tst_128<(int)2>(float *)+0xc50
=========     and Read access at void nvjet_tst_128<(int)2>(float *)+0x480 [16 hazards]
=========
========= Warning: nothing of weight
[  PASSED  ] 1 test.
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
END)",
      {"--tool", "racecheck"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_TRUE(has(outcome, "1 x Invalid __global__ read of size 4 bytes: void coluber::cuda::scan<(int)4>(float *)"));
  EXPECT_FALSE(has(outcome, "nvjet")) << outcome.out;
  EXPECT_TRUE(has(outcome, "racecheck: 3 of 3 tests passed, 2 found in our kernels, 2 in those of libraries"))
      << outcome.out;
}

// A report without a kernel, such as of the host's memory, is ours.
TEST_F(Sanitize, WhatNamesNoKernelIsOurs) {
  const ScriptOutcome outcome = run("echo '========= Error: something new'", {"--tool", "memcheck"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_TRUE(has(outcome, "memcheck: 3 of 3 tests passed, 3 found in our kernels")) << outcome.out;
}

TEST_F(Sanitize, WhatDidNotRunToItsEndIsNoSuccess) {
  const auto summary = [&](const std::string& of_test) {
    const ScriptOutcome outcome = run("[ $name = Norm.All ] && " + of_test, {"--tool", "memcheck", "--limit", "2"});
    EXPECT_EQ(outcome.code, 1) << outcome.out;
    return outcome.out.substr(outcome.out.find("memcheck: "));
  };
  EXPECT_NE(summary("exec sleep 30").find("2 of 3 tests passed, 0 found"), std::string::npos);
  EXPECT_NE(summary("exec sleep 30").find("; 1 not finished"), std::string::npos);
  EXPECT_NE(summary("exec echo '========= ERROR SUMMARY: 0 errors'").find("; 1 test failed"), std::string::npos);
  EXPECT_NE(summary("exec echo 'no driver'").find("; 1 no report"), std::string::npos);
  const ScriptOutcome skipped = run("echo '[  SKIPPED ] there is no GPU'", {});
  EXPECT_EQ(skipped.code, 1) << skipped.out;
  EXPECT_TRUE(has(skipped, "0 of 3 tests passed, 0 found in our kernels, 0 in those of libraries; 3 skipped itself"));
}

TEST_F(Sanitize, RefusesInOneSentence) {
  const auto refused = [&](std::vector<std::string> arguments, const std::string& part) {
    const ScriptOutcome outcome = run_script(kScript, arguments);
    EXPECT_EQ(outcome.code, 2) << outcome.out;
    EXPECT_NE(outcome.err.find(part), std::string::npos) << outcome.err;
  };
  program("compute-sanitizer", "");
  refused({folder_ / "none"}, "expected a program, got none");
  refused({"--jobs", "0", tests_}, "--jobs: expected 1 or more, got 0");
  refused({program("empty", "exit 0")}, "--filter *: expected tests, got none");
  refused({program("broken", "exit 3")}, "expected exit code 0, got 3");
  ::setenv("PATH", path_.c_str(), 1);
  if (std::system("command -v compute-sanitizer >/dev/null") == 0) return;
  refused({tests_}, "compute-sanitizer: expected it in PATH, got none");
}

}  // namespace
}  // namespace coluber::testing
