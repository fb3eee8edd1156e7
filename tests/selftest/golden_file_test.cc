// Golden files that are none: refused in a sentence, and the other files are still read.
#include <functional>

#include "tests/selftest/goldens.h"

namespace coluber::testing {
namespace {

using selftest::CaseResult;
using selftest::Status;

std::vector<CaseResult> results_of(const SmallGolden& golden) {
  const TemporaryFolder folder;
  golden.write(folder / "small.safetensors");
  return run_folder(folder.path());
}

TEST(GoldenFile, TheSmallOneIsGood) {
  const std::vector<CaseResult> results = results_of({});
  ASSERT_EQ(results.size(), 1u);
  EXPECT_EQ(results[0].status, Status::kPass) << describe(results[0]);
  EXPECT_EQ(results[0].op, "causal_conv1d");
  EXPECT_EQ(results[0].file, "small.safetensors");
  EXPECT_EQ(results[0].case_name, "one");
}

TEST(GoldenFile, TheSameAsABareCase) {
  SmallGolden golden;
  golden.metadata = {{"one", R"({"op": "causal_conv1d", "silu": false})"}, {"note", "not JSON"}, {"seed", "7"}};
  golden.cases = golden.options = "";
  const std::vector<CaseResult> results = results_of(golden);
  ASSERT_EQ(results.size(), 1u);
  EXPECT_EQ(results[0].status, Status::kPass) << describe(results[0]);
}

struct Malformed {
  const char* name;
  std::function<void(SmallGolden&)> change;
  Status status;
  const char* says;
};

class MalformedFile : public ::testing::TestWithParam<Malformed> {};

TEST_P(MalformedFile, IsRefusedInASentence) {
  SmallGolden golden;
  GetParam().change(golden);
  const std::vector<CaseResult> results = results_of(golden);
  ASSERT_EQ(results.size(), 1u);
  EXPECT_EQ(results[0].status, GetParam().status) << describe(results[0]);
  EXPECT_NE(results[0].reason.find(GetParam().says), std::string::npos) << describe(results[0]);
  EXPECT_EQ(results[0].reason.front(), '[') << "who refuses";
}

std::vector<Malformed> malformed_files() {
  const Tensor wide = Tensor::zeros({1, 2, 3}, DType::kF32);
  return {
      {"CasesNotJson", [](SmallGolden& g) { g.cases = "one"; }, Status::kFail, "metadata cases"},
      {"CasesCut", [](SmallGolden& g) { g.cases = R"(["one)"; }, Status::kFail, "metadata cases"},
      {"CasesAnObject", [](SmallGolden& g) { g.cases = R"({"one": 1})"; }, Status::kFail, "a list of names"},
      {"CasesNumbers", [](SmallGolden& g) { g.cases = "[1]"; }, Status::kFail, "a list of names"},
      {"CasesEmpty", [](SmallGolden& g) { g.cases = "[]"; }, Status::kFail, "a list of names"},
      {"CasesEmptyName", [](SmallGolden& g) { g.cases = R"([""])"; }, Status::kFail, "a list of names"},
      {"NoCases", [](SmallGolden& g) { g.cases = ""; }, Status::kFail, "metadata cases: expected a text, got none"},
      {"NoOp", [](SmallGolden& g) { g.metadata.erase("op"); }, Status::kFail, "metadata op"},
      {"NoOptions", [](SmallGolden& g) { g.options = ""; }, Status::kFail, "metadata case/one"},
      {"OptionsNotJson", [](SmallGolden& g) { g.options = "{silu}"; }, Status::kFail, "metadata case/one"},
      {"OptionsAList", [](SmallGolden& g) { g.options = "[]"; }, Status::kFail, "an object"},
      {"OptionOfAnotherType", [](SmallGolden& g) { g.options = R"({"silu": "yes"})"; }, Status::kFail, "one: "},
      {"CaseWithoutTensors",
       [](SmallGolden& g) {
         g.cases = R"(["one","two"])";
         g.metadata["case/two"] = "{}";
       },
       Status::kFail, "case two"},
      {"CaseTwice", [](SmallGolden& g) { g.cases = R"(["one","one"])"; }, Status::kFail, "belong to one case"},
      {"TensorOfNoCase", [wide](SmallGolden& g) { g.tensors["two/x"] = wide; }, Status::kFail, "belong to one case"},
      {"NoInput", [](SmallGolden& g) { g.tensors.erase("one/x"); }, Status::kFail, "input: expected x"},
      {"NoCotangent", [](SmallGolden& g) { g.tensors.erase("one/cot/out"); }, Status::kFail, "expected cot/out"},
      {"InputOfAnotherShape", [wide](SmallGolden& g) { g.tensors["one/x"] = wide; }, Status::kFail, "[causal_conv1d]"},
      {"InputOfAnotherRank", [](SmallGolden& g) { g.tensors["one/x"] = Tensor::zeros({3}, DType::kF32); },
       Status::kFail, "["},
      {"OutputOfAnotherSize",
       [](SmallGolden& g) {
         g.tensors["one/out/out"] = Tensor::zeros({1, 1, 4}, DType::kF64);
       },
       Status::kFail, "elements of out/out: expected 4, got 3"},
      {"LaterFormat", [](SmallGolden& g) { g.metadata["format"] = "goldens/2"; }, Status::kUnsupported, "goldens/1"},
      {"NoGolden",
       [](SmallGolden& g) {
         g.metadata = {{"format", "pt"}};
         g.cases = g.options = "";
       },
       Status::kUnsupported, "goldens/1"},
      {"UnknownOp", [](SmallGolden& g) { g.metadata["op"] = "fft"; }, Status::kUnsupported, "[fft] no op of this name"},
      {"OpOfLater", [](SmallGolden& g) { g.metadata["op"] = "ssd_scan"; }, Status::kUnsupported,
       "[ssd_scan] Mamba-2 is not there yet"},
      {"UnknownInput", [wide](SmallGolden& g) { g.tensors["one/gate"] = wide; }, Status::kUnsupported, "input gate"},
      {"UnknownOutput", [wide](SmallGolden& g) { g.tensors["one/out/gate"] = wide; }, Status::kUnsupported, "out/gate"},
  };
}

INSTANTIATE_TEST_SUITE_P(All, MalformedFile, ::testing::ValuesIn(malformed_files()),
                         [](const auto& param) { return std::string(param.param.name); });

TEST(GoldenFile, OneThatIsCutDoesNotHideTheOthers) {
  const TemporaryFolder folder;
  SmallGolden().write(folder / "b.safetensors");
  const std::string text = read_bytes(folder / "b.safetensors");
  write_bytes(folder / "a.safetensors", text.substr(0, text.size() - 8));
  write_bytes(folder / "c.safetensors", "");
  write_bytes(folder / "notes.json", "{}");
  write_bytes(folder / "weights.gguf", "GGUF");
  write_bytes(folder / "README.md", "not a golden, not looked at");
  const std::vector<CaseResult> results = run_folder(folder.path());
  ASSERT_EQ(results.size(), 5u);
  const Status expected[] = {Status::kFail, Status::kPass, Status::kFail, Status::kUnsupported, Status::kUnsupported};
  for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(results[i].status, expected[i]) << describe(results[i]);
}

TEST(GoldenFile, FoldersThatHoldNoneAreRefused) {
  const TemporaryFolder folder;
  EXPECT_THROW(run_folder(folder.path()), coluber::Error);
  EXPECT_THROW(run_folder(folder / "missing"), coluber::Error);
  write_bytes(folder / "file", "");
  EXPECT_THROW(run_folder(folder / "file"), coluber::Error);
}

TEST(GoldenFile, ModelWithoutItsCheckpointFails) {
  const TemporaryFolder folder;
  std::filesystem::copy(goldens_folder() + "/lm_state_spaces.safetensors", folder.path());
  const std::vector<CaseResult> results = run_folder(folder.path(), "*/ss_mamba1");
  ASSERT_EQ(results.size(), 1u);
  EXPECT_EQ(results[0].status, Status::kFail);
  EXPECT_NE(results[0].reason.find("checkpoints/ss_mamba1"), std::string::npos) << results[0].reason;
}

}  // namespace
}  // namespace coluber::testing
