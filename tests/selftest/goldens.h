// Golden folders for tests: the one of the repository, and small ones written for the occasion.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "selftest/selftest.h"
#include "tests/support/files.h"

namespace coluber::testing {

inline std::string goldens_folder() {
  return std::string(COLUBER_SOURCE_DIR) + "/tests/goldens/data";
}

// A file of the kind "goldens/1" with the case "one": causal_conv1d, width 1 and weight 1, so that out = x.
struct SmallGolden {
  std::string cases = R"(["one"])";
  std::string options = R"({"silu": false})";
  StringMap metadata = {{"format", "goldens/1"}, {"op", "causal_conv1d"}};
  TensorMap tensors = {
      {"one/x", Tensor::of<float>({1, 1, 3}, {1, -2, 4})},
      {"one/weight", Tensor::of<float>({1, 1}, {1})},
      {"one/out/out", Tensor::of<double>({1, 1, 3}, {1, -2, 4})},
      {"one/cot/out", Tensor::of<float>({1, 1, 3}, {1, 1, 2})},
      {"one/grad/x", Tensor::of<double>({1, 1, 3}, {1, 1, 2})},
      {"one/grad/weight", Tensor::of<double>({1, 1}, {1 - 2 + 8})},
  };

  void write(const std::string& path) const {
    StringMap all = metadata;
    if (!cases.empty()) all["cases"] = cases;
    if (!options.empty()) all["case/one"] = options;
    write_safetensors(path, tensors, all);
  }
};

inline std::vector<selftest::CaseResult> run_folder(const std::string& folder, const std::string& only = "") {
  Context ctx({.num_threads = 2});
  selftest::Options options;
  options.only = only;
  std::vector<selftest::CaseResult> results;
  selftest::run_folder(ctx, folder, options, [&](const selftest::CaseResult& result) { results.push_back(result); });
  return results;
}

// For messages of failed expectations.
inline std::string describe(const selftest::CaseResult& result) {
  return result.file + " " + result.case_name + ": " + std::string(status_name(result.status)) + " " +
         result.worst.tensor + " error " + std::to_string(result.worst.error) + " bound " +
         std::to_string(result.worst.bound) + " " + result.reason;
}

// A copy of `from` in which the first element of `tensor` is multiplied by `factor`.
inline void write_changed_copy(const std::string& from, const std::string& to, const std::string& tensor,
                               double factor) {
  const SafetensorsFile file = SafetensorsFile::open(from);
  TensorMap tensors = file.tensors();
  Tensor& value = tensors.at(tensor);
  value = value.clone();
  const Tensor flat = value.reshape({value.numel()});
  flat.set({0}, flat.at({0}) * factor);
  write_safetensors(to, tensors, file.metadata());
}

}  // namespace coluber::testing
