#include "modules/init.h"

#include <algorithm>
#include <cmath>

#include "core/hash.h"
#include "core/rng.h"

namespace coluber::init {
namespace {

// f(i) gives element i in double; it is rounded once to the parameter's dtype.
template <class F>
Var make(const Init& init, const Shape& shape, F&& f) {
  if (init.placeholder) return Var(placeholder(shape, init.dtype), true);
  const Tensor t = Tensor::empty(shape, init.dtype);
  const std::int64_t n = t.numel();
  if (init.dtype == DType::kF64) {
    for (std::int64_t i = 0; i < n; ++i) t.data<double>()[i] = f(i);
  } else {
    for (std::int64_t i = 0; i < n; ++i) t.data<float>()[i] = static_cast<float>(f(i));
  }
  return Var(t, true);
}

}  // namespace

Tensor placeholder(const Shape& shape, DType dtype) {
  Shape strides = shape;
  for (int axis = 0; axis < shape.rank(); ++axis) strides[axis] = 0;
  return Tensor::zeros({1}, dtype).with_strides(shape, strides);
}

Var constant(const Init& init, const Shape& shape, double value) {
  return make(init, shape, [&](std::int64_t) { return value; });
}

Var uniform(const Init& init, const std::string& name, const Shape& shape, double low, double high) {
  const Rng rng(init.seed, fnv1a(name));
  return make(init, shape,
              [&](std::int64_t i) { return low + (high - low) * rng.uniform(static_cast<std::uint64_t>(i)); });
}

Var normal(const Init& init, const std::string& name, const Shape& shape, double stddev) {
  const Rng rng(init.seed, fnv1a(name));
  return make(init, shape, [&](std::int64_t i) { return stddev * rng.normal(static_cast<std::uint64_t>(i)); });
}

Var fan_in_uniform(const Init& init, const std::string& name, const Shape& shape, std::int64_t fan_in, double scale) {
  const double bound = scale / std::sqrt(static_cast<double>(fan_in));
  return uniform(init, name, shape, -bound, bound);
}

Var s4d_real_log(const Init& init, std::int64_t d, std::int64_t n) {
  return make(init, {d, n}, [&](std::int64_t i) { return std::log(static_cast<double>(i % n + 1)); });
}

Var dt_bias(const Init& init, const std::string& name, std::int64_t d, const MambaInit& options) {
  const Rng rng(init.seed, fnv1a(name));
  const double low = std::log(options.dt_min), high = std::log(options.dt_max);
  return make(init, {d}, [&](std::int64_t i) {
    const double dt =
        std::max(std::exp(low + (high - low) * rng.uniform(static_cast<std::uint64_t>(i))), options.dt_init_floor);
    return dt + std::log(-std::expm1(-dt));  // inverse of softplus
  });
}

}  // namespace coluber::init
