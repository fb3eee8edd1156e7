// How far a computation made of many ops may be off, when no formula bounds it element by element.
//
// bound = 4 u sqrt(terms) (1 + condition): `terms` roundings in a row of random sign (Higham and Mary, SIAM J. Sci.
// Comput. 41(5), 2019), four standard deviations of them. `condition` is how far the exact result moves, in units of
// max_error, for a relative step of every input; it is measured in f64 on the case itself, so it knows nothing of the
// kernels under test.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "coluber/context.h"
#include "tests/support/tensors.h"

namespace coluber::testing {

using NamedTensors = std::map<std::string, Tensor>;

inline double rounding_bound(double unit, double terms, double condition) {
  return 4 * unit * std::sqrt(terms) * (1 + condition);
}

// By name of a result of `run`. Floats of `inputs` are f64.
inline std::map<std::string, double> conditions(const NamedTensors& inputs,
                                                const std::function<NamedTensors(const NamedTensors&)>& run) {
  constexpr double kStep = 0x1p-26;  // small enough to be linear, large enough to stand above the rounding of f64
  const NamedTensors exact = run(inputs);
  std::map<std::string, double> worst;
  for (std::uint64_t pattern = 1; pattern <= 2; ++pattern) {
    NamedTensors moved;
    std::uint64_t stream = 0;
    for (const auto& [name, tensor] : inputs) {
      moved[name] = tensor;
      if (!dtype_is_float(tensor.dtype())) continue;
      const Tensor copy = tensor.clone();
      const Rng rng(pattern, ++stream);
      for (std::int64_t i = 0; i < copy.numel(); ++i)
        copy.data<double>()[i] *= 1 + ((rng.bits(static_cast<std::uint64_t>(i)) & 1u) != 0 ? kStep : -kStep);
      moved[name] = copy;
    }
    for (const auto& [name, tensor] : run(moved))
      worst[name] = std::max(worst[name], max_error(tensor, exact.at(name)) / kStep);
  }
  return worst;
}

}  // namespace coluber::testing
