// `coluber selftest`: goldens of independent implementations against this build on this machine.
//
// A person sees one line a file, under it the cases that failed in full and what unsupported ones wait for. -v shows
// every case, --json prints one object a case with the keys of to_json() below.
#include "selftest/selftest.h"

#include <cmath>
#include <cstdio>
#include <map>
#include <vector>

#include "apps/cli.h"
#include "apps/commands.h"
#include "apps/terminal.h"
#include "core/check.h"

namespace coluber::apps {
namespace {

using selftest::CaseResult;
using selftest::Status;

struct Options : CommonOptions {
  std::string goldens;
  std::string only;
  std::string dtype = "both";
  bool verbose = false;

  Options() { device = "cpu"; }
};

// --dtype and --algo choose among: f64 by the reference kernels, f32 by them, f32 as this machine takes it.
std::vector<selftest::Arithmetic> arithmetics_of(const Options& options) {
  const Algorithm algorithm = options.context().algorithm;
  const Device device = options.chosen_device();
  if (!device.is_cpu()) {
    if (options.dtype == "f64") {
      refuse_value(ErrorCode::kInvalidArgument, "options", "--dtype on a GPU", "f32 or both", "f64",
                   "f64 has reference kernels alone, for the cpu");
    }
    return {{DType::kF32, algorithm, device}};
  }
  std::vector<selftest::Arithmetic> chosen;
  for (selftest::Arithmetic arithmetic : selftest::Options().arithmetics) {
    if (options.dtype != "both" && arithmetic.dtype != parse_dtype(options.dtype)) continue;
    if (algorithm == Algorithm::kReference && arithmetic.algorithm != algorithm) continue;
    if (algorithm == Algorithm::kCpu) {
      if (arithmetic.algorithm == Algorithm::kReference) continue;
      arithmetic.algorithm = algorithm;
    }
    chosen.push_back(arithmetic);
  }
  if (chosen.empty()) {
    refuse_value(ErrorCode::kInvalidArgument, "options", "--algo with --dtype f64", "auto or reference", "cpu",
                 "f64 has reference kernels alone");
  }
  return chosen;
}

// JSON has no infinity: null, as where nothing was compared.
Json number(double value, bool compared = true) {
  return compared && std::isfinite(value) ? Json(value) : Json(nullptr);
}

Json to_json(const CaseResult& result) {
  const bool compared = result.status == Status::kPass || !result.worst.tensor.empty();
  Json object = {{"file", result.file},
                 {"op", result.op},
                 {"case", result.case_name},
                 {"status", selftest::status_name(result.status)},
                 {"tensor", result.worst.tensor},
                 {"error", number(result.worst.error, compared)},
                 {"bound", number(result.worst.bound, compared)}};
  if (!result.reason.empty()) object["reason"] = result.reason;
  for (const selftest::RunResult& run : result.runs) {
    object["runs"].push_back({{"dtype", dtype_name(run.arithmetic.dtype)},
                              {"algorithm", algorithm_name(run.arithmetic.algorithm)},
                              {"device", device_name(run.arithmetic.device)},
                              {"status", selftest::status_name(run.status)},
                              {"tensor", run.worst.tensor},
                              {"error", number(run.worst.error)},
                              {"bound", number(run.worst.bound)}});
  }
  return object;
}

std::string padded(std::string text, std::size_t width) {
  if (text.size() < width) text.resize(width, ' ');
  return text;
}

std::string name_of(selftest::Arithmetic arithmetic) {
  const std::string kernels =
      arithmetic.device.is_cpu() ? std::string(algorithm_name(arithmetic.algorithm)) : device_name(arithmetic.device);
  return std::string(dtype_name(arithmetic.dtype)) + " " + kernels;
}

// "grad/A  error 1.2e-07  bound 3.4e-06  (4%)"
std::string to_text(const selftest::Worst& worst) {
  char text[96];
  std::snprintf(text, sizeof text, "  error %.1e  bound %.1e", worst.error, worst.bound);
  std::string line = worst.tensor + text;
  if (std::isfinite(worst.share())) {
    std::snprintf(text, sizeof text, "  (%.3g%%)", 100 * worst.share());
    line += text;
  }
  return line;
}

std::string counted(int count, const std::string& what) {
  return count > 0 ? std::to_string(count) + " " + what : "";
}

// "12 passed, 1 failed, 3 unsupported"; what did not occur is left out.
std::string tally_text(const std::map<Status, int>& tally) {
  const auto at = [&](Status status) { return tally.count(status) != 0 ? tally.at(status) : 0; };
  std::string text;
  for (const std::string& part : {counted(at(Status::kPass), "passed"), counted(at(Status::kFail), "failed"),
                                  counted(at(Status::kUnsupported), "unsupported")}) {
    if (!part.empty()) text += (text.empty() ? "" : ", ") + part;
  }
  return text;
}

// "pass" when nothing failed and something passed.
std::string painted_status(const std::map<Status, int>& tally) {
  if (tally.count(Status::kFail) != 0) return paint(Colour::kRed, "FAIL");
  if (tally.count(Status::kPass) != 0) return paint(Colour::kGreen, "pass");
  return paint(Colour::kYellow, "----");
}

class Printer {
 public:
  explicit Printer(const Options& options)
      : options_(options), progress_("selftest", "cases", 0, options.quiet || options.json) {}

  void add(const CaseResult& result) {
    ++total_[result.status];
    if (options_.json) return print_json(to_json(result));
    if (!pending_.empty() && pending_.front().file != result.file) flush();
    pending_.push_back(result);
    progress_.update(++cases_, result.file);
  }

  int finish() {
    flush();
    const bool failed = total_.count(Status::kFail) != 0;
    if (!options_.json) {
      print_line(paint(failed ? Colour::kRed : Colour::kGreen, tally_text(total_)) + " in " +
                 human_duration(progress_.seconds()));
    }
    return failed ? kExitFailure : kExitOk;
  }

  bool empty() const { return total_.empty(); }

 private:
  void flush() {
    if (pending_.empty()) return;
    progress_.clear();
    std::map<Status, int> tally;
    for (const CaseResult& result : pending_) ++tally[result.status];
    if (!options_.quiet || tally.count(Status::kFail) != 0) print_file(tally);
    std::fflush(stdout);
    pending_.clear();
  }

  void print_file(const std::map<Status, int>& tally) const {
    std::string line = painted_status(tally) + "  " + padded(pending_.front().file, 34) + "  " + tally_text(tally);
    print_line(line + (tally.count(Status::kFail) == 0 ? nearest_text() : ""));
    std::map<std::string, int> missing;  // reason -> cases
    for (const CaseResult& result : pending_) {
      if (result.status == Status::kUnsupported && !options_.verbose) {
        ++missing[result.reason];
      } else if (options_.verbose || result.status == Status::kFail) {
        print_case(result);
      }
    }
    for (const auto& [reason, cases] : missing) {
      print_line("      " + paint(Colour::kDim, (cases > 1 ? std::to_string(cases) + " x " : "") + reason));
    }
  }

  // Of the kernels that this machine takes, the last arithmetic: the others do not depend on it.
  std::string nearest_text() const {
    const selftest::RunResult* nearest = nullptr;
    for (const CaseResult& result : pending_) {
      if (result.runs.empty()) continue;
      if (nearest == nullptr || result.runs.back().worst.share() > nearest->worst.share())
        nearest = &result.runs.back();
    }
    return nearest == nullptr ? "" : ", " + name_of(nearest->arithmetic) + " at most " + to_text(nearest->worst);
  }

  void print_case(const CaseResult& result) const {
    const std::string status = result.status == Status::kFail   ? paint(Colour::kRed, "FAIL")
                               : result.status == Status::kPass ? "pass"
                                                                : paint(Colour::kYellow, "----");
    print_line("      " + status + "  " + result.case_name + (result.reason.empty() ? "" : "  " + result.reason));
    for (const selftest::RunResult& run : result.runs) {
      if (!options_.verbose && run.status == Status::kPass) continue;
      const std::string text = padded(name_of(run.arithmetic), 13) + "  " + to_text(run.worst);
      print_line("            " + (run.status == Status::kFail ? paint(Colour::kRed, text) : text));
    }
  }

  const Options& options_;
  Progress progress_;
  std::map<Status, int> total_;
  std::vector<CaseResult> pending_;  // of one file
  int cases_ = 0;
};

int run(const Options& options) {
  selftest::Options what;
  what.only = options.only;
  what.arithmetics = arithmetics_of(options);
  Context ctx(options.context());
  Printer printer(options);
  const auto report = [&](const CaseResult& result) { printer.add(result); };
  if (options.goldens.empty()) {
    selftest::run_builtin(ctx, what, report);
  } else {
    selftest::run_folder(ctx, options.goldens, what, report);
  }
  if (printer.empty()) refuse(ErrorCode::kNotFound, "selftest", join("no case matches --only '", options.only, "'"));
  return printer.finish();
}

}  // namespace

void register_selftest(CLI::App& root, Exit& exit) {
  const auto options = std::make_shared<Options>();
  CLI::App& command = add_command(
      root, "selftest", "Compare this build with what independent implementations gave",
      {{"coluber selftest", "the goldens inside the program"},
       {"coluber selftest --goldens DIR", "every golden file of a folder, language models with their checkpoints"},
       {"coluber selftest --goldens DIR --only selective_scan --dtype f32 --json", "some of them, for a script"}});
  add_common_options(command, *options);
  add_device_option(command, *options);
  command.add_option("--goldens", options->goldens, "Folder of golden files; without it: those built in");
  command.add_option("--only", options->only, "Cases whose file/case or op has this in it, or fits it as a glob");
  command.add_flag("-v,--verbose", options->verbose,
                   "Every case with each of its errors, not files and failures alone");
  add_dtype_option(command, "--dtype", options->dtype, "Arithmetic to check", {"f64", "f32", "both"})
      ->capture_default_str();
  on_run(command, exit, options, run);
}

}  // namespace coluber::apps
