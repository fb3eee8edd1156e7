// Small mixers for the tests of this folder.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "coluber/modules.h"
#include "tests/support/tensors.h"

namespace coluber::testing {

inline MambaConfig small_mixer() {
  MambaConfig config;
  config.d_model = 4;
  config.d_state = 3;
  config.dt_rank = 2;
  config.init.dt_min =
      0.3;  // steps long enough that A matters: a gradient that is tiny beside the loss is all rounding
  config.init.dt_max = 2;
  return config;
}

inline Parameters parameters_of(const Mamba& mixer) {
  Parameters parameters;
  mixer.append_parameters(parameters);
  return parameters;
}

inline std::vector<Var> vars_of(const Parameters& parameters) {
  std::vector<Var> vars;
  for (const Parameter& parameter : parameters) vars.push_back(parameter.var);
  return vars;
}

inline const Parameter& find(const Parameters& parameters, const std::string& name) {
  for (const Parameter& parameter : parameters) {
    if (parameter.name == name) return parameter;
  }
  throw std::out_of_range("no parameter " + name);
}

inline bool has(const Parameters& parameters, const std::string& name) {
  for (const Parameter& parameter : parameters) {
    if (parameter.name == name) return true;
  }
  return false;
}

}  // namespace coluber::testing
