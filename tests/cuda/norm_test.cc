// norm on a GPU. Bounds: with V_i = |v_hat_i| + 1 (the mean that is taken off may cancel), y is good to 64 roundings of
// V |weight| + |bias|: sums over a group go through at most 32 numbers a thread, 5 shuffles and 20 warps. For grad_x
// sizes are (|h| + mean |h| V + V mean(|h| V)) / sigma, for gradients of the weight sums of |grad| V.
#include "kernels/norm.h"

#include "kernels/reference/norm.h"
#include "tests/cuda/kernel_test.h"

namespace coluber::testing {
namespace {

struct Case {
  std::int64_t rows = 1, m = 8, group = 0;
  NormKind kind = NormKind::kRms;
  bool residual = false, weight = true, bias = false, z = false, norm_before_gate = false, grad_sum = false;
  bool misaligned = false;

  std::string name() const {
    std::string s = (kind == NormKind::kRms ? "rms " : "layer ") + std::to_string(rows) + "x" + std::to_string(m) +
                    " group " + std::to_string(group);
    for (auto [on, word] : {std::pair{residual, " residual"},
                            {weight, " weight"},
                            {bias, " bias"},
                            {z, " z"},
                            {norm_before_gate, " norm_before_gate"},
                            {grad_sum, " grad_residual_out"},
                            {misaligned, " misaligned"}})
      if (on) s += word;
    return s;
  }
};

struct Operands {
  Numbers x, residual, z, weight, bias, grad_y, grad_sum;
  Numbers y, sum, grad_x, grad_narrow, grad_z, grad_weight, grad_bias;
  Tensor y_size, grad_x_size, grad_z_size, grad_weight_size, grad_bias_size;
};

Numbers part_of_wider(const Numbers& wide, std::int64_t m) {
  return {wide.exact.slice(1, 1, m + 1), wide.device.slice(1, 1, m + 1)};
}

template <class X, class T>
Operands operands_of(const Case& c) {
  constexpr DType kX = dtype_of<X>::value, kT = dtype_of<T>::value, kF = DType::kF32;
  const Shape shape{c.rows, c.m};
  Operands o;
  o.x = c.misaligned ? part_of_wider(random_numbers({c.rows, c.m + 1}, kX, 1), c.m) : random_numbers(shape, kX, 1);
  if (c.residual) o.residual = random_numbers(shape, kF, 2);
  if (c.z) o.z = random_numbers(shape, kT, 3);
  if (c.weight) o.weight = random_numbers({c.m}, kF, 4);
  if (c.bias) o.bias = random_numbers({c.m}, kF, 5);
  o.grad_y = random_numbers(shape, kT, 6);
  if (c.grad_sum) o.grad_sum = random_numbers(shape, kF, 7);
  o.y = result(shape, kT);
  o.sum = result(shape, kF);
  o.grad_x = result(shape, kX);
  o.grad_narrow = result(shape, kT);
  o.grad_z = result(shape, kT);
  o.grad_weight = result({c.m}, kF);
  o.grad_bias = result({c.m}, kF);
  o.y_size = Tensor::zeros(shape, DType::kF64);
  o.grad_x_size = Tensor::zeros(shape, DType::kF64);
  o.grad_z_size = Tensor::zeros(shape, DType::kF64);
  o.grad_weight_size = Tensor::zeros({c.m}, DType::kF64);
  o.grad_bias_size = Tensor::zeros({c.m}, DType::kF64);
  return o;
}

template <class X, class T, class P>
NormParams<X, T, P> params_of(const Case& c, const Operands& o, Tensor Numbers::*side) {
  NormParams<X, T, P> p;
  p.rows = c.rows;
  p.m = c.m;
  p.group = c.group > 0 ? c.group : c.m;
  p.kind = c.kind;
  p.eps = static_cast<P>(1e-5f);
  p.norm_before_gate = c.norm_before_gate;
  p.x = view_of<const X, 2>(o.x.*side);
  p.residual = view_of<const P, 2>(o.residual.*side);
  p.z = view_of<const T, 2>(o.z.*side);
  p.weight = c.weight ? (o.weight.*side).template data<P>() : nullptr;
  p.bias = c.bias ? (o.bias.*side).template data<P>() : nullptr;
  p.y = view_of<T, 2>(o.y.*side);
  if (c.residual) p.residual_out = view_of<P, 2>(o.sum.*side);
  return p;
}

template <class X, class T, class P>
NormGradParams<X, T, P> grads_of(const Case& c, const Operands& o, Tensor Numbers::*side) {
  NormGradParams<X, T, P> g;
  g.grad_y = view_of<const T, 2>(o.grad_y.*side);
  g.grad_residual_out = view_of<const P, 2>(o.grad_sum.*side);
  g.grad_x = view_of<X, 2>(o.grad_x.*side);
  if (c.z) g.grad_z = view_of<T, 2>(o.grad_z.*side);
  if (c.weight) g.grad_weight = (o.grad_weight.*side).template data<P>();
  if (c.bias) g.grad_bias = (o.grad_bias.*side).template data<P>();
  return g;
}

void measure_group(const Case& c, const NormParams<double>& p, const Operands& o, std::int64_t row,
                   std::int64_t first) {
  const auto group = reference::norm_group(p, row, first);
  const auto n = static_cast<double>(p.group);
  double mean_h = 0, mean_h_v = 0;
  auto at = [&](std::int64_t i) { return static_cast<std::size_t>(i); };
  auto gate = [&](std::int64_t i) { return std::abs(group.gate[at(i)]); };
  auto grad = [&](std::int64_t i) {
    return std::abs(o.grad_y.exact.at({row, first + i})) * (c.norm_before_gate ? gate(i) : 1);
  };
  auto weight = [&](std::int64_t i) { return c.weight ? std::abs(p.weight[first + i]) : 1; };
  auto bias = [&](std::int64_t i) { return c.bias ? std::abs(p.bias[first + i]) : 0; };
  auto v = [&](std::int64_t i) { return std::abs(group.v_hat[at(i)]) + 1; };
  for (std::int64_t i = 0; i < p.group; ++i) {
    mean_h += grad(i) * weight(i) / n;
    mean_h_v += grad(i) * weight(i) * v(i) / n;
    o.grad_weight_size.data<double>()[first + i] += grad(i) * v(i);
    o.grad_bias_size.data<double>()[first + i] += grad(i);
  }
  for (std::int64_t i = 0; i < p.group; ++i) {
    const double y = v(i) * weight(i) + bias(i);
    o.y_size.set({row, first + i}, y * (c.norm_before_gate ? gate(i) : 1));
    const double slope = c.z ? std::abs(group.gate_slope[at(i)]) : 0;
    const double grad_v = (grad(i) * weight(i) + mean_h + v(i) * mean_h_v) * group.inverse_sigma;
    const double grad_r = c.z && !c.norm_before_gate ? grad_v * gate(i) : grad_v;
    o.grad_x_size.set({row, first + i}, grad_r + (c.grad_sum ? std::abs(o.grad_sum.exact.at({row, first + i})) : 0));
    const double grad_z =
        c.norm_before_gate ? std::abs(o.grad_y.exact.at({row, first + i})) * y : grad_v * std::abs(group.r[at(i)]);
    o.grad_z_size.set({row, first + i}, grad_z * (slope + 0.1));  // an error of z silu moves the slope by less
  }
}

template <class X, class T>
void check_case(const cuda::Stream& stream, const Case& c) {
  SCOPED_TRACE(c.name());
  const Operands o = operands_of<X, T>(c), again = operands_of<X, T>(c);
  const auto exact = params_of<double, double, double>(c, o, &Numbers::exact);
  reference::norm_forward(exact);
  reference::norm_backward(exact, grads_of<double, double, double>(c, o, &Numbers::exact));
  for (std::int64_t row = 0; row < c.rows; ++row)
    for (std::int64_t first = 0; first < c.m; first += exact.group) measure_group(c, exact, o, row, first);
  for (const Operands* run : {&o, &again}) {
    const auto p = params_of<X, T, float>(c, *run, &Numbers::device);
    auto g = grads_of<X, T, float>(c, *run, &Numbers::device);
    g.grad_x_narrow = view_of<T, 2>(run->grad_narrow.device);
    cuda::norm_forward(stream, p);
    cuda::norm_backward(stream, p, g);
  }
  const double sums = 64 + static_cast<double>(c.rows) / 64;
  expect_close("y", o.y.device, o.y.exact, o.y_size, 64);
  if (c.residual) expect_close("residual_out", o.sum.device, o.sum.exact, absolute(o.sum.exact), 0);
  expect_close("grad_x", o.grad_x.device, o.grad_x.exact, o.grad_x_size, 64);
  expect_close("grad_x_narrow", o.grad_narrow.device, o.grad_x.exact, o.grad_x_size, 64);
  if (c.z) expect_close("grad_z", o.grad_z.device, o.grad_z.exact, o.grad_z_size, 64);
  if (c.weight) expect_close("grad_weight", o.grad_weight.device, o.grad_weight.exact, o.grad_weight_size, 64 + sums);
  if (c.bias) expect_close("grad_bias", o.grad_bias.device, o.grad_bias.exact, o.grad_bias_size, 64 + sums);
  EXPECT_TRUE(!c.weight || same_bits(o.grad_weight.device.to(kCpuDevice), again.grad_weight.device.to(kCpuDevice)));
}

class NormCuda : public CudaKernel {
 protected:
  void check_all(const Case& c) {
    check_case<float, float>(stream(), c);
    check_case<bfloat16, bfloat16>(stream(), c);
    check_case<float16, float16>(stream(), c);
    check_case<float, bfloat16>(stream(), c);
    check_case<float, float16>(stream(), c);
  }
};

TEST_F(NormCuda, Widths) {
  for (std::int64_t m : {8, 64, 256, 264, 520, 768, 1024, 1032, 1536, 2560, 4096, 5120})
    check_all({.rows = 5, .m = m, .residual = true, .grad_sum = true});
}

TEST_F(NormCuda, WidthsOfThePlainKernels) {
  for (std::int64_t m : {1, 7, 63, 500, 1001}) check_all({.rows = 5, .m = m, .residual = true});
  check_all({.rows = 3, .m = 6000, .kind = NormKind::kLayer, .bias = true});  // plain backward
  check_all({.rows = 2, .m = 20000, .z = true});                              // and forward
  check_all({.rows = 4, .m = 64, .kind = NormKind::kLayer, .bias = true, .misaligned = true});
}

TEST_F(NormCuda, OptionsOneByOneAndTogether) {
  for (int bits = 0; bits < 64; ++bits) {
    for (std::int64_t m : {96, 90}) {
      Case c{.rows = 7, .m = m, .group = bits % 3 == 0 ? m / 3 : 0};
      c.kind = (bits & 1) != 0 ? NormKind::kLayer : NormKind::kRms;
      c.weight = (bits & 2) != 0;
      c.bias = (bits & 4) != 0;
      c.z = (bits & 8) != 0;
      c.norm_before_gate = c.z && (bits & 16) != 0;
      c.grad_sum = c.residual = (bits & 32) != 0;
      check_all(c);
    }
  }
}

TEST_F(NormCuda, ManyRows) {
  check_all({.rows = 4001, .m = 40, .kind = NormKind::kLayer, .bias = true});
  check_all({.rows = 1500, .m = 768, .residual = true, .grad_sum = true});
  check_all({.rows = 700, .m = 2048, .group = 512, .z = true});
  check_all({.rows = 600, .m = 93});
}

}  // namespace
}  // namespace coluber::testing
