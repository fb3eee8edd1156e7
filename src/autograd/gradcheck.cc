#include <algorithm>
#include <cmath>

#include "coluber/autograd.h"
#include "core/check.h"

namespace coluber {
namespace {

double value_of(Context& ctx, const std::function<Var(Graph&)>& f) {
  Graph graph{ctx};
  return f(graph).value().at({});
}

// Central difference with one Richardson step: error O(step^4) + O(eps / step).
double numeric_derivative(Context& ctx, const std::function<Var(Graph&)>& f, double* x, double step) {
  const double x0 = *x;
  const double h = step * std::max(1.0, std::abs(x0));
  auto central = [&](double delta) {
    *x = x0 + delta;
    const double up = value_of(ctx, f);
    *x = x0 - delta;
    const double down = value_of(ctx, f);
    *x = x0;
    return (up - down) / (2 * delta);
  };
  return (4 * central(h / 2) - central(h)) / 3;
}

}  // namespace

double gradcheck(Context& ctx, const std::vector<Var>& inputs, const std::function<Var(Graph&)>& f, double step) {
  for (const Var& input : inputs) {
    if (input.value().dtype() != DType::kF64 || !input.value().is_contiguous()) {
      refuse_value(ErrorCode::kInvalidArgument, "gradcheck", "input", "a contiguous f64 tensor",
                   dtype_name(input.value().dtype()));
    }
    input.set_grad({});
  }
  Tape tape;
  Graph graph{ctx, &tape};
  tape.backward(ctx, f(graph));

  double worst = 0;
  for (const Var& input : inputs) {
    const std::int64_t n = input.value().numel();
    const Tensor analytic =
        input.grad().defined() ? input.grad().contiguous() : Tensor::zeros(input.value().shape(), DType::kF64);
    double scale = 0;
    for (std::int64_t i = 0; i < n; ++i) scale = std::max(scale, std::abs(analytic.data<double>()[i]));
    for (std::int64_t i = 0; i < n; ++i) {
      const double numeric = numeric_derivative(ctx, f, input.value().data<double>() + i, step);
      const double got = analytic.data<double>()[i];
      const double size = std::max({std::abs(got), std::abs(numeric), scale, 1e-30});
      const double error = std::abs(got - numeric) / size;
      worst = std::isnan(error) ? error : std::max(worst, error);
      if (std::isnan(worst)) return worst;
    }
  }
  return worst;
}

}  // namespace coluber
