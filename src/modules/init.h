// How parameters start. Every function draws from a random stream named by the parameter.
#pragma once

#include <string>

#include "coluber/modules.h"

namespace coluber::init {

// Of shape and dtype, one shared element: for models whose values come from a file (Init::placeholder).
Tensor placeholder(const Shape& shape, DType dtype);

Var constant(const Init& init, const Shape& shape, double value);
Var uniform(const Init& init, const std::string& name, const Shape& shape, double low, double high);
Var normal(const Init& init, const std::string& name, const Shape& shape, double stddev);
// The default of linear and convolution layers in the published code: uniform in +-1/sqrt(fan_in).
Var fan_in_uniform(const Init& init, const std::string& name, const Shape& shape, std::int64_t fan_in,
                   double scale = 1);
// A_log (d,n) = log(1..n) in every row: the S4D-real start, A = -(1..n).
Var s4d_real_log(const Init& init, std::int64_t d, std::int64_t n);
// softplus^-1 of a dt that is log-uniform in [dt_min, dt_max], at least dt_init_floor.
Var dt_bias(const Init& init, const std::string& name, std::int64_t d, const MambaInit& options);

}  // namespace coluber::init
