// Golden tests at run time: compares this build, on this machine, with what independent implementations gave.
//
// A golden file is a safetensors file of cases. Tensor `<case>/<name>` is an input, `<case>/out/<name>` an expected
// output, `<case>/cot/<name>` its cotangent and `<case>/grad/<name>` the gradient of sum(out * cot). Two kinds exist:
// metadata `format` "goldens/1" with `op`, `cases` and `case/<case>`, and files whose metadata has the case itself as
// key ("laws"). Language models name a checkpoint folder beside; tokenizer_*.json and stream_*.json hold text.
//
// A case is computed by the reference kernels in f64 and in f32 and by the kernels that this machine takes in f32; how
// far each may be from the golden is derived in measure.h. Every case ends as pass, fail or unsupported with what is
// missing; none is skipped. Called by `coluber selftest`.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "coluber/context.h"
#include "coluber/dtype.h"

namespace coluber::selftest {

enum class Status : std::uint8_t { kPass, kFail, kUnsupported };
std::string_view status_name(Status status);  // "pass", "fail", "unsupported"

// The tensor nearest to its bound, or furthest beyond.
struct Worst {
  std::string tensor;  // "out/out", "grad/A", "step/out"; empty: none was compared
  double error = 0;    // max |got - expected| / max(|expected|, 1)
  double bound = 0;

  double share() const;  // error / bound; infinity when something else than 0 was exact
};

struct Arithmetic {
  DType dtype;
  Algorithm algorithm;
  Device device = kCpuDevice;
};

// One case in one arithmetic.
struct RunResult {
  Arithmetic arithmetic;
  Status status = Status::kPass;
  Worst worst;
};

struct CaseResult {
  std::string file;  // relative to the folder
  std::string op;
  std::string case_name;
  Status status = Status::kPass;
  Worst worst;                  // of all runs
  std::string reason;           // what is missing or went wrong
  std::vector<RunResult> runs;  // empty where arithmetic plays no part
};

struct Options {
  std::vector<Arithmetic> arithmetics = {
      {DType::kF64, Algorithm::kReference}, {DType::kF32, Algorithm::kReference}, {DType::kF32, Algorithm::kAuto}};
  std::string only;  // part of, or glob with * and ? over, "file/case" or the op; empty: all
};

using Report = std::function<void(const CaseResult&)>;

// Every golden below `folder`. Throws kNotFound when there is none.
void run_folder(Context& ctx, const std::string& folder, const Options& options, const Report& report);

// The goldens inside this program.
void run_builtin(Context& ctx, const Options& options, const Report& report);

// "*" any run, "?" one character; without either: is `pattern` a part of `text`?
bool matches(std::string_view pattern, std::string_view text);

}  // namespace coluber::selftest
