#include "selftest/selftest.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "core/check.h"
#include "selftest/builtin.h"
#include "selftest/checkpoint_pairs.h"
#include "selftest/golden_file.h"
#include "selftest/measure.h"
#include "selftest/text_cases.h"

namespace coluber::selftest {
namespace {

namespace fs = std::filesystem;

using MakeExperiment = Experiment (*)(const GoldenCase&);

const std::map<std::string, MakeExperiment>& experiments() {
  static const std::map<std::string, MakeExperiment> table = {
      {"causal_conv1d", causal_conv1d_experiment},
      {"gated_rms_norm", norm_experiment},
      {"language_model", language_model_experiment},
      {"mamba1_block", mamba1_block_experiment},
      {"norm", norm_experiment},
      {"selective_scan", selective_scan_experiment},
      {"training_trace", training_trace_experiment},
  };
  return table;
}

// What an op of the goldens waits for.
std::string missing_op(const std::string& op) {
  if (op == "ssd_scan" || op.rfind("mamba2", 0) == 0) return "Mamba-2 is not there yet";
  if (op.rfind("mamba3", 0) == 0) return "Mamba-3 is not there yet";
  if (op == "attention" || op == "gated_mlp") return "layers of hybrid models are not there yet";
  return "no op of this name";
}

class Runner {
 public:
  Runner(Context& ctx, const Options& options, const Report& report) : ctx_(ctx), options_(options), report_(report) {}

  bool wanted(const CaseResult& base) const {
    return options_.only.empty() || matches(options_.only, base.file + "/" + base.case_name) ||
           matches(options_.only, base.op);
  }

  // Calls `body`, which returns a result; what it throws becomes one.
  template <class F>
  void run(const CaseResult& base, F&& body) const {
    if (!wanted(base)) return;
    try {
      report_(body());
    } catch (const Error& error) {
      report_failure(base, error);
    } catch (const Json::exception& error) {  // a case whose options lack a key or hold another type
      report_failure(base, Error(ErrorCode::kCorruptFile, "goldens", join(base.case_name, ": ", error.what())));
    }
  }

  void run_cases(const std::string& file_name, const SafetensorsFile& file, const std::string& folder) const {
    const std::vector<GoldenCase> cases = golden_cases(file, folder);
    if (cases.empty()) {
      refuse_value(ErrorCode::kUnsupported, "goldens", "metadata", "format goldens/1, or cases by name", "neither");
    }
    for (const GoldenCase& golden : cases) {
      const CaseResult base = base_of(file_name, golden.op, golden.name);
      run(base, [&] {
        const auto make = experiments().find(golden.op);
        if (make == experiments().end()) refuse(ErrorCode::kUnsupported, golden.op, missing_op(golden.op));
        return measure(ctx_, golden, make->second(golden), options_.arithmetics, base);
      });
    }
  }

  void run_file(const fs::path& path, const std::string& name) const {
    const std::string extension = path.extension().string();
    const CaseResult base = base_of(name, extension.substr(1), "");
    try {
      if (extension == ".gguf") refuse(ErrorCode::kUnsupported, "goldens", "files in GGUF are not there yet");
      if (extension == ".safetensors") {
        run_cases(name, SafetensorsFile::open(path.string()), path.parent_path().string());
      } else if (is_text_golden(path.filename().string())) {
        run_text(path, base_of(name, path.filename().string().front() == 's' ? "stream" : "tokenizer", ""));
      } else {
        refuse_value(ErrorCode::kUnsupported, "goldens", "JSON file", "tokenizer_*.json or stream_*.json",
                     path.filename().string());
      }
    } catch (const Error& error) {
      if (wanted(base)) report_failure(base, error);
    }
  }

  void run_text(const fs::path& path, const CaseResult& base) const {
    for (const CaseResult& result : text_results(path.string(), base)) {
      if (wanted(result)) report_(result);
    }
  }

  void run_checkpoint_pairs(const fs::path& folder) const {
    for (const CheckpointPair& pair : checkpoint_pairs(folder.string())) {
      const CaseResult base = base_of("checkpoints/" + pair.name, "checkpoint", pair.name + " equals " + pair.same_as);
      run(base, [&] { return compare_checkpoints(pair, base); });
    }
  }

 private:
  static CaseResult base_of(const std::string& file, const std::string& op, const std::string& case_name) {
    CaseResult base;
    base.file = file;
    base.op = op;
    base.case_name = case_name;
    return base;
  }

  void report_failure(CaseResult result, const Error& error) const {
    result.status = error.code() == ErrorCode::kUnsupported ? Status::kUnsupported : Status::kFail;
    result.reason = error.what();
    report_(result);
  }

  Context& ctx_;
  const Options& options_;
  const Report& report_;
};

// Weights beside a GGUF file of the same name belong to that file.
bool is_companion(const fs::path& path) {
  return path.extension() == ".safetensors" && fs::exists(fs::path(path).replace_extension(".gguf"));
}

std::vector<fs::path> golden_files(const fs::path& folder) {
  static const std::set<std::string> extensions = {".safetensors", ".json", ".gguf"};
  static const std::set<std::string> others = {"checkpoints", "tokenizers"};  // what goldens are computed from
  std::vector<fs::path> files;
  for (auto it = fs::recursive_directory_iterator(folder); it != fs::recursive_directory_iterator(); ++it) {
    if (it->is_directory() && others.count(it->path().filename().string()) != 0) it.disable_recursion_pending();
    if (!it->is_regular_file() || extensions.count(it->path().extension().string()) == 0) continue;
    if (!is_companion(it->path())) files.push_back(it->path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<fs::path> list_goldens(const std::string& folder) {
  try {
    if (!fs::is_directory(folder)) {
      refuse_value(ErrorCode::kNotFound, "selftest", "--goldens", "a folder of golden files", folder);
    }
    std::vector<fs::path> files = golden_files(folder);
    if (files.empty()) {
      refuse_value(ErrorCode::kNotFound, "selftest", folder, "golden files (.safetensors, .json, .gguf)", "none");
    }
    return files;
  } catch (const fs::filesystem_error& error) {
    refuse(ErrorCode::kIo, "selftest", join(folder, ": ", error.code().message()));
  }
}

}  // namespace

std::string_view status_name(Status status) {
  switch (status) {
    case Status::kPass: return "pass";
    case Status::kFail: return "fail";
    case Status::kUnsupported: return "unsupported";
  }
  return "?";
}

bool matches(std::string_view pattern, std::string_view text) {
  if (pattern.find_first_of("*?") == std::string_view::npos) return text.find(pattern) != std::string_view::npos;
  std::size_t p = 0, t = 0, star = std::string_view::npos, resume = 0;
  while (t < text.size()) {
    if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t]) && pattern[p] != '*') {
      ++p, ++t;
    } else if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = t;
    } else if (star != std::string_view::npos) {  // let the last star take one character more
      p = star + 1;
      t = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

void run_folder(Context& ctx, const std::string& folder, const Options& options, const Report& report) {
  const Runner runner(ctx, options, report);
  for (const fs::path& path : list_goldens(folder)) runner.run_file(path, fs::relative(path, folder).string());
  runner.run_checkpoint_pairs(folder);
}

void run_builtin(Context& ctx, const Options& options, const Report& report) {
  const Runner runner(ctx, options, report);
  for (const BuiltinFile& file : builtin_files()) runner.run_cases(file.name, open_builtin(file), "");
}

}  // namespace coluber::selftest
