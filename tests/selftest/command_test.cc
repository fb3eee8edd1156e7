// `coluber selftest` as a user calls it: what it prints and how it ends.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "apps/cli.h"
#include "apps/commands.h"
#include "tests/selftest/goldens.h"

namespace coluber::testing {
namespace {

struct Said {
  int code = 0;
  std::string out, err;
};

std::vector<nlohmann::json> parse_lines(const std::string& text) {
  std::vector<nlohmann::json> objects;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) objects.push_back(nlohmann::json::parse(line));
  return objects;
}

Said selftest_command(std::vector<std::string> arguments) {
  CLI::App root("", "coluber");
  apps::Exit exit;
  apps::register_selftest(root, exit);
  arguments.insert(arguments.begin(), {"selftest", "--threads", "2"});
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants a vector
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  try {
    root.parse(arguments);
  } catch (const CLI::ParseError&) {
    exit.code = apps::kExitUsage;
  }
  std::fflush(stdout);
  return {exit.code, ::testing::internal::GetCapturedStdout(), ::testing::internal::GetCapturedStderr()};
}

TEST(Command, BuiltInOnesPass) {
  const Said said = selftest_command({});
  EXPECT_EQ(said.code, 0) << said.out << said.err;
  EXPECT_NE(said.out.find("21 passed in"), std::string::npos) << said.out;
  EXPECT_EQ(said.err, "") << "quiet when piped";
  EXPECT_EQ(said.out.find('\033'), std::string::npos) << "no colours when piped";
  EXPECT_EQ(std::count(said.out.begin(), said.out.end(), '\n'), 6) << "a line a file and one of all";
}

TEST(Command, VerboseShowsEveryCase) {
  const Said said = selftest_command({"-v", "--only", "norm"});
  EXPECT_EQ(said.code, 0);
  for (const char* part : {"1_rms_3x33_residual_prenorm", "f64 reference", "f32 reference", "f32 auto", "bound"}) {
    EXPECT_NE(said.out.find(part), std::string::npos) << part << "\n" << said.out;
  }
}

void expect_documented_keys(const nlohmann::json& object) {
  for (const char* key : {"file", "op", "case", "status", "tensor"}) {
    ASSERT_TRUE(object.contains(key)) << object;
    EXPECT_TRUE(object[key].is_string()) << object;
  }
  for (const char* key : {"error", "bound"}) {
    ASSERT_TRUE(object.contains(key)) << object;
    EXPECT_TRUE(object[key].is_number() || object[key].is_null()) << object;
  }
}

TEST(Command, JsonIsOneObjectACase) {
  const Said said = selftest_command({"--goldens", goldens_folder(), "--only", "laws_fp64", "--json"});
  EXPECT_EQ(said.code, 0) << said.out;
  EXPECT_EQ(said.err, "");
  const std::vector<nlohmann::json> objects = parse_lines(said.out);
  EXPECT_EQ(objects.size(), 44u);
  for (const nlohmann::json& object : objects) {
    expect_documented_keys(object);
    EXPECT_EQ(object["status"], "pass");
    EXPECT_LE(object["error"].get<double>(), object["bound"].get<double>());
    ASSERT_EQ(object["runs"].size(), 3u);
    EXPECT_EQ(object["runs"][2]["dtype"], "f32");
    EXPECT_EQ(object["runs"][2]["algorithm"], "auto");
  }
}

TEST(Command, UnsupportedSaysWhatIsMissingAndIsNoFailure) {
  const TemporaryFolder folder;
  SmallGolden golden;
  golden.metadata["op"] = "ssd_scan";
  golden.write(folder / "small.safetensors");
  const Said json = selftest_command({"--goldens", folder.path(), "--json"});
  EXPECT_EQ(json.code, 0);
  const nlohmann::json object = nlohmann::json::parse(json.out);
  expect_documented_keys(object);
  EXPECT_EQ(object["status"], "unsupported");
  EXPECT_TRUE(object["error"].is_null() && object["bound"].is_null()) << object;
  EXPECT_EQ(object["reason"], "[ssd_scan] Mamba-2 is not there yet");
  const Said text = selftest_command({"--goldens", folder.path()});
  EXPECT_NE(text.out.find("Mamba-2 is not there yet"), std::string::npos) << text.out;
  EXPECT_NE(text.out.find("1 unsupported in"), std::string::npos) << text.out;
}

TEST(Command, AWrongGoldenIsShownInFullAndEndsWithOne) {
  const TemporaryFolder folder;
  SmallGolden golden;
  golden.tensors["one/grad/x"] = Tensor::of<double>({1, 1, 3}, {1, 1, 2.01});
  golden.write(folder / "small.safetensors");
  const Said json = selftest_command({"--goldens", folder.path(), "--json"});
  EXPECT_EQ(json.code, 1);
  const nlohmann::json object = nlohmann::json::parse(json.out);
  expect_documented_keys(object);
  EXPECT_EQ(object["status"], "fail");
  EXPECT_EQ(object["tensor"], "grad/x");
  EXPECT_NEAR(object["error"].get<double>(), 0.01 / 2.01, 1e-6);
  for (const std::vector<std::string>& more : {std::vector<std::string>{}, std::vector<std::string>{"--quiet"}}) {
    std::vector<std::string> arguments = {"--goldens", folder.path()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Said text = selftest_command(arguments);
    EXPECT_EQ(text.code, 1);
    for (const char* part : {"FAIL", "one", "grad/x", "error 5.0e-03", "f64 reference", "f32 auto", "1 failed in"}) {
      EXPECT_NE(text.out.find(part), std::string::npos) << part << "\n" << text.out;
    }
  }
}

TEST(Command, QuietSaysOnlyTheSum) {
  const Said said = selftest_command({"--quiet", "--only", "causal_conv1d"});
  EXPECT_EQ(said.code, 0);
  EXPECT_EQ(said.out.rfind("4 passed in", 0), 0u) << said.out;
}

TEST(Command, DtypeAndAlgorithmChooseTheRuns) {
  const auto runs = [](const std::vector<std::string>& arguments) {
    std::vector<std::string> all = {"--only", "norm/0*", "--json"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    const Said said = selftest_command(all);
    EXPECT_EQ(said.code, 0) << said.out << said.err;
    std::string names;
    const nlohmann::json object = nlohmann::json::parse(said.out);
    for (const nlohmann::json& run : object.at("runs")) {
      names += run["dtype"].get<std::string>() + " " + run["algorithm"].get<std::string>() + ";";
    }
    return names;
  };
  EXPECT_EQ(runs({}), "f64 reference;f32 reference;f32 auto;");
  EXPECT_EQ(runs({"--dtype", "f64"}), "f64 reference;");
  EXPECT_EQ(runs({"--dtype", "f32"}), "f32 reference;f32 auto;");
  EXPECT_EQ(runs({"--algo", "reference"}), "f64 reference;f32 reference;");
  EXPECT_EQ(runs({"--algo", "cpu"}), "f32 cpu;");
  EXPECT_EQ(selftest_command({"--algo", "cpu", "--dtype", "f64"}).code, 2);
}

TEST(Command, MistakesEndWithASentence) {
  const Said none = selftest_command({"--only", "no such case"});
  EXPECT_EQ(none.code, 1);
  EXPECT_NE(none.err.find("no such case"), std::string::npos) << none.err;
  const Said folder = selftest_command({"--goldens", "/nowhere/at/all"});
  EXPECT_EQ(folder.code, 1);
  EXPECT_NE(folder.err.find("/nowhere/at/all"), std::string::npos) << folder.err;
  EXPECT_EQ(selftest_command({"--dtype", "f16"}).code, 2);
  EXPECT_EQ(selftest_command({"--golden", "x"}).code, 2);
}

}  // namespace
}  // namespace coluber::testing
