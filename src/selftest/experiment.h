// Experiment: how one golden case is computed here. Made by the files named after their ops, run by measure.cc.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "coluber/context.h"
#include "coluber/tensor.h"
#include "core/json.h"

namespace coluber::selftest {

using Tensors = std::map<std::string, Tensor>;

struct GoldenCase {
  std::string op;
  std::string name;
  Json options;
  Tensors tensors;     // without the prefix "<case>/"
  std::string folder;  // of the golden file, for checkpoints beside it; empty for those built in

  bool has(const std::string& tensor) const { return tensors.count(tensor) != 0; }
  bool flag(const std::string& option) const { return options.value(option, false); }
};

// One tensor that came out, and the golden one it should equal.
struct Output {
  std::string name;    // "out/out", "grad/x", or of a second way to the same numbers: "step/out"
  std::string golden;  // "out/out"
  Tensor value;
  double terms = 0;  // roundings in a row behind one element: the length of its sums; 0: a copy of inputs, exact
};

struct Experiment {
  // Inputs and cotangents of the case, all floats of one dtype (f64 or f32) on one device, by name.
  std::function<std::vector<Output>(Context&, const Tensors& inputs)> run;
  // Inputs that are not in the file (parameters of a checkpoint).
  Tensors more_inputs;
  // Golden tensors that are known and deliberately not compared.
  std::vector<std::string> ignored;
};

// Each throws kUnsupported naming what is missing.
Experiment causal_conv1d_experiment(const GoldenCase& golden);
Experiment selective_scan_experiment(const GoldenCase& golden);
Experiment norm_experiment(const GoldenCase& golden);
Experiment mamba1_block_experiment(const GoldenCase& golden);
Experiment language_model_experiment(const GoldenCase& golden);
Experiment training_trace_experiment(const GoldenCase& golden);

// Throws kUnsupported when the case has an input that `known` lacks, so that no option is silently ignored.
void check_inputs_known(const GoldenCase& golden, const std::vector<std::string>& known);

// The tensor of that name; throws kCorruptFile when there is none, or gives an undefined one.
const Tensor& required(const Tensors& tensors, const std::string& name);
Tensor optional_tensor(const Tensors& tensors, const std::string& name);
DType float_dtype(const Tensors& inputs);
Device device_of(const Tensors& inputs);  // where the floats are

}  // namespace coluber::selftest
