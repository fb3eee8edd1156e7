#include "selftest/measure.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/check.h"
#include "core/hash.h"
#include "core/rng.h"

namespace coluber::selftest {
namespace {

constexpr int kPerturbations = 4;  // a scalar that hardly moves in one may in another
// Small enough that the change is linear, large enough to stand above the rounding of f64.
constexpr double kPerturbation = 0x1p-26;

double unit_roundoff(DType dtype) {
  return dtype == DType::kF64 ? 0x1p-53 : 0x1p-24;
}

bool is_expectation(const std::string& name) {
  return name.rfind("out/", 0) == 0 || name.rfind("grad/", 0) == 0;
}

// Floats on the device; ids, borders and resets stay on the CPU, from where ops take them.
Tensors inputs_of(const GoldenCase& golden, const Experiment& experiment, DType dtype, Device device = kCpuDevice) {
  Tensors inputs;
  const auto add = [&](const std::string& name, const Tensor& tensor) {
    inputs.emplace(name, dtype_is_float(tensor.dtype()) ? tensor.to(dtype).to(device) : tensor);
  };
  for (const auto& [name, tensor] : golden.tensors) {
    if (!is_expectation(name)) add(name, tensor);
  }
  for (const auto& [name, tensor] : experiment.more_inputs) add(name, tensor);
  return inputs;
}

// Every float x becomes x (1 +- kPerturbation), signs at random.
Tensors perturbed(const Tensors& inputs, int pattern) {
  Tensors moved;
  for (const auto& [name, tensor] : inputs) {
    if (!dtype_is_float(tensor.dtype())) {
      moved.emplace(name, tensor);
      continue;
    }
    const Tensor copy = tensor.clone();
    const Rng rng(static_cast<std::uint64_t>(pattern), fnv1a(name));
    double* x = copy.data<double>();
    for (std::int64_t i = 0; i < copy.numel(); ++i) {
      x[i] *= 1 + ((rng.bits(static_cast<std::uint64_t>(i)) & 1u) != 0 ? kPerturbation : -kPerturbation);
    }
    moved.emplace(name, copy);
  }
  return moved;
}

// Gives the context its algorithm back.
class AlgorithmScope {
 public:
  explicit AlgorithmScope(Context& ctx) : ctx_(ctx), before_(ctx.algorithm()) {}
  ~AlgorithmScope() { ctx_.set_algorithm(before_); }
  AlgorithmScope(const AlgorithmScope&) = delete;
  AlgorithmScope& operator=(const AlgorithmScope&) = delete;

 private:
  Context& ctx_;
  Algorithm before_;
};

Tensor flat_f64(const Tensor& tensor) {
  return tensor.to(kCpuDevice).contiguous().to(DType::kF64);
}

// By output name: how far e moves for a relative step of 1 of every input.
std::map<std::string, double> conditions(Context& ctx, const Experiment& experiment, const Tensors& inputs,
                                         const std::vector<Output>& exact) {
  std::map<std::string, double> condition;
  for (int pattern = 1; pattern <= kPerturbations; ++pattern) {
    const std::vector<Output> moved = experiment.run(ctx, perturbed(inputs, pattern));
    for (std::size_t i = 0; i < exact.size(); ++i) {
      if (exact[i].terms == 0) continue;
      const double step = relative_error(moved[i].value, exact[i].value) / kPerturbation;
      condition[exact[i].name] = std::max(condition[exact[i].name], step);
    }
  }
  return condition;
}

double bound_of(const Output& output, const Tensor& expected, DType dtype, double condition) {
  if (!dtype_is_float(expected.dtype())) return 0;  // token ids
  double bound = kSigma * unit_roundoff(dtype) * std::sqrt(output.terms) * (1 + condition);
  if (dtype == DType::kF64) bound += kGoldenAgreement;
  if (expected.dtype() == DType::kF32) bound += 0x1p-24;
  return bound;
}

void keep_worst(Worst& worst, const Worst& other) {
  if (worst.tensor.empty() || other.share() > worst.share()) worst = other;
}

// Expected tensors that no output answers to, so that nothing in the file is passed over.
void check_complete(const GoldenCase& golden, const Experiment& experiment, const std::vector<Output>& outputs) {
  for (const auto& entry : golden.tensors) {
    const std::string& name = entry.first;  // not by a structured binding, which clang 14 lets no lambda capture
    if (!is_expectation(name)) continue;
    const auto& ignored = experiment.ignored;
    if (std::find(ignored.begin(), ignored.end(), name) != ignored.end()) continue;
    const bool found = std::any_of(outputs.begin(), outputs.end(), [&](const Output& o) { return o.golden == name; });
    if (!found) refuse_value(ErrorCode::kUnsupported, golden.op, "expected tensor", "one that is computed here", name);
  }
}

RunResult judge(const GoldenCase& golden, const std::vector<Output>& outputs, Arithmetic arithmetic,
                const std::map<std::string, double>& condition) {
  RunResult result{arithmetic, Status::kPass, {}};
  for (const Output& output : outputs) {
    const auto expected = golden.tensors.find(output.golden);
    if (expected == golden.tensors.end()) continue;  // a second output that this case does not state
    check_equal(golden.op, join("elements of ", output.golden), expected->second.numel(), output.value.numel());
    const auto moved = condition.find(output.name);
    const Worst worst{
        output.name, relative_error(output.value, expected->second),
        bound_of(output, expected->second, arithmetic.dtype, moved == condition.end() ? 0 : moved->second)};
    keep_worst(result.worst, worst);
    // An infinite bound says that the reference kernels gave no number themselves.
    if (!(worst.error <= worst.bound) || !std::isfinite(worst.bound)) result.status = Status::kFail;
  }
  return result;
}

}  // namespace

double relative_error(const Tensor& got, const Tensor& expected) {
  const Tensor a = flat_f64(got), b = flat_f64(expected);
  check_equal("selftest", "elements", b.numel(), a.numel());
  const double* x = a.data<double>();
  const double* y = b.data<double>();
  double worst = 0;
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    if (x[i] == y[i]) continue;  // equal infinities included
    const double error = std::abs(x[i] - y[i]) / std::max(std::abs(y[i]), 1.0);
    if (!(error <= worst)) worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
  }
  return worst;
}

double Worst::share() const {
  if (error == 0) return 0;
  return bound == 0 || !std::isfinite(error) ? std::numeric_limits<double>::infinity() : error / bound;
}

CaseResult measure(Context& ctx, const GoldenCase& golden, const Experiment& experiment,
                   const std::vector<Arithmetic>& arithmetics, const CaseResult& base) {
  const AlgorithmScope scope(ctx);
  CaseResult result = base;
  ctx.set_algorithm(Algorithm::kReference);
  const Tensors exact_inputs = inputs_of(golden, experiment, DType::kF64);
  const std::vector<Output> exact = experiment.run(ctx, exact_inputs);
  check_complete(golden, experiment, exact);
  const std::map<std::string, double> condition = conditions(ctx, experiment, exact_inputs, exact);
  for (const Arithmetic arithmetic : arithmetics) {
    ctx.set_algorithm(arithmetic.algorithm);
    const bool is_exact = arithmetic.dtype == DType::kF64 && arithmetic.algorithm == Algorithm::kReference;
    const RunResult run = judge(
        golden,
        is_exact ? exact : experiment.run(ctx, inputs_of(golden, experiment, arithmetic.dtype, arithmetic.device)),
        arithmetic, condition);
    result.runs.push_back(run);
    keep_worst(result.worst, run.worst);
    if (run.status == Status::kFail) result.status = Status::kFail;
  }
  return result;
}

void check_inputs_known(const GoldenCase& golden, const std::vector<std::string>& known) {
  for (const auto& [name, tensor] : golden.tensors) {
    if (is_expectation(name) || name.rfind("cot/", 0) == 0) continue;
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      refuse(ErrorCode::kUnsupported, golden.op, join("input ", name, " is not known here"));
    }
  }
}

const Tensor& required(const Tensors& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) refuse_value(ErrorCode::kCorruptFile, "goldens", "input", name, "no tensor of that name");
  return found->second;
}

Tensor optional_tensor(const Tensors& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  return found == tensors.end() ? Tensor() : found->second;
}

Device device_of(const Tensors& inputs) {
  for (const auto& [name, tensor] : inputs) {
    if (!tensor.device().is_cpu()) return tensor.device();
  }
  return kCpuDevice;
}

DType float_dtype(const Tensors& inputs) {
  for (const auto& [name, tensor] : inputs) {
    if (dtype_is_float(tensor.dtype())) return tensor.dtype();
  }
  return DType::kF32;
}

}  // namespace coluber::selftest
