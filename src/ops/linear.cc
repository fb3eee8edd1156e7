// linear: checks, layouts and the choice of kernel.
#include "ops/linear.h"

#include <algorithm>
#include <optional>

#include "coluber/ops.h"
#include "kernels/matmul.h"
#include "kernels/reference/matmul.h"
#include "ops/op_check.h"

namespace coluber::ops {
namespace {

constexpr std::string_view kOp = "linear";

std::int64_t row_stride(const Tensor& matrix) {
  return matrix.size(0) > 1 ? matrix.stride(0) : matrix.size(1);
}

WeightMatrix weight_matrix(const Tensor& weight) {
  return {weight.raw(), weight.dtype(), row_stride(weight)};
}

// A factor as the reference kernels multiply it.
Tensor reference_factor(const Tensor& t, DType dtype, DType compute) {
  return compute == DType::kBF16 ? t.to(DType::kBF16).to(dtype) : t.to(dtype);
}

// What both factors of a product on a GPU are multiplied in.
DType factor_dtype(const Tensor& activations, DType compute) {
  return dtype_size(activations.dtype()) == 2 ? activations.dtype() : compute;
}

// c = a b, either transposed, on the device of c; factors are converted when a dtype is given.
void device_product(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b, std::optional<DType> factor,
                    const Tensor& c, bool accumulate = false, const Tensor& bias = {}) {
  const Tensor left = factor ? as_matrix(a.to(*factor)) : a, right = factor ? as_matrix(b.to(*factor)) : b;
  cuda::MatmulParams p{device_matrix(left), device_matrix(right), device_matrix(c),
                       transpose_a,         transpose_b,          accumulate};
  p.bias = bias.defined() ? bias.data<float>() : nullptr;
  cuda::matmul(cuda::current_stream(c.device().index), p);
}

// Calls f(T{}) with the C++ type of a dtype that is f32 or f64.
template <class F>
void with_type(DType dtype, F&& f) {
  dtype == DType::kF64 ? f(double{}) : f(float{});
}

}  // namespace

bool takes_reference(const Context& ctx, DType dtype) {
  return dtype == DType::kF64 || ctx.algorithm() == Algorithm::kReference;
}

Tensor as_matrix(const Tensor& t) {
  const std::int64_t columns = t.size(-1);
  std::int64_t rows = 1, stride = 0;
  bool joined = columns <= 1 || t.stride(-1) == 1;
  for (int axis = t.rank() - 2; axis >= 0; --axis) {
    if (t.size(axis) == 1) continue;
    if (rows == 1)
      stride = t.stride(axis);
    else
      joined = joined && t.stride(axis) == stride * rows;
    rows *= t.size(axis);
  }
  joined = joined && (rows <= 1 || stride >= columns);
  if (joined) return t.with_strides({rows, columns}, {rows > 1 ? stride : std::max<std::int64_t>(columns, 1), 1});
  const Tensor copy = t.clone();
  return copy.reshape({rows, columns});
}

Tensor product_weight(const Tensor& x, const Tensor& weight, DType compute) {
  const std::int64_t m = x.size(-1), tokens = m == 0 ? 0 : x.numel() / m;
  return x.device().is_cpu() || tokens <= kSkinnyRows ? weight : weight.to(factor_dtype(x, compute));
}

cuda::Matrix device_matrix(const Tensor& t) {
  return {t.raw(), t.size(0), t.size(1), row_stride(t), t.dtype()};
}

void check_linear(std::string_view op, const Tensor& x, const Tensor& weight, const Tensor& bias, DType compute) {
  if (!x.defined() || x.rank() < 1) {
    refuse_value(ErrorCode::kInvalidArgument, op, "x", "shape (..., in)", x.defined() ? "()" : "no tensor");
  }
  check_storage(op, "x", x);
  check_shape(op, "weight", weight, {-1, x.size(-1)});
  check_device(op, "weight", weight, x.device());
  check_device(op, "bias", bias, x.device());
  const bool wide = x.dtype() == DType::kF64;
  if (wide != (weight.dtype() == DType::kF64) || !dtype_is_float(weight.dtype())) {
    refuse_value(ErrorCode::kInvalidArgument, op, "dtype of weight",
                 wide ? std::string("f64 since x is f64") : join("f32, bf16 or f16 since x is ", dtype_name(x.dtype())),
                 dtype_name(weight.dtype()));
  }
  if (bias.defined()) {
    check_shape(op, "bias", bias, {weight.size(0)});
    if (bias.dtype() != x.dtype() && bias.dtype() != weight.dtype() && bias.dtype() != parameter_dtype(x)) {
      refuse_value(ErrorCode::kInvalidArgument, op, "dtype of bias",
                   join(dtype_name(x.dtype()), " of x or ", dtype_name(weight.dtype()), " of weight"),
                   dtype_name(bias.dtype()));
    }
  }
  const bool f16 = compute == DType::kF16 && !x.device().is_cpu();
  if (compute != DType::kF32 && compute != DType::kBF16 && !f16) {
    refuse_value(ErrorCode::kInvalidArgument, op, "compute", x.device().is_cpu() ? "f32 or bf16" : "f32, bf16 or f16",
                 dtype_name(compute));
  }
}

void check_packed(std::string_view op, const Tensor& packed, const Tensor& weight) {
  if (!packed.defined()) return;
  check_shape(op, "packed", packed, {cpu::packed_weight_elems(weight.size(0), weight.size(1))});
  check_dtype(op, "packed", packed, DType::kBF16);
  check_device(op, "packed", packed, kCpuDevice);
}

Tensor bias_like(const Tensor& bias, const Tensor& x) {
  return bias.defined() ? bias.to(parameter_dtype(x)).contiguous() : bias;
}

namespace {

DType output_dtype(const LinearArgs& args) {
  const DType x = args.x.dtype(), out = args.out.value_or(x);
  if (out == x || (!args.x.device().is_cpu() && out == DType::kF32)) return out;
  refuse_value(ErrorCode::kInvalidArgument, kOp, "dtype of y",
               join(dtype_name(x), " as x", args.x.device().is_cpu() ? "" : ", or f32"), dtype_name(out));
}

}  // namespace

void matrix_forward(Context& ctx, const Tensor& x, const Tensor& weight, const Tensor& bias, DType compute,
                    const Tensor& y, const Tensor& packed) {
  if (!x.device().is_cpu()) {  // for few tokens W is read as it lies
    const bool few = x.size(0) <= kSkinnyRows;
    return device_product(x, false, weight, true, few ? std::nullopt : std::optional<DType>(factor_dtype(x, compute)),
                          y, false, bias);
  }
  if (takes_reference(ctx, x.dtype())) {
    const Tensor a = reference_factor(x, x.dtype(), compute), w = reference_factor(weight, x.dtype(), compute);
    with_type(x.dtype(), [&](auto zero) {
      using T = decltype(zero);
      reference::matmul<T>(view_of<const T, 2>(a), reference::transposed(view_of<const T, 2>(w)), view_of<T, 2>(y));
      if (bias.defined()) reference::add_bias<T>(view_of<const T, 1>(bias), view_of<T, 2>(y));
    });
    return;
  }
  LinearForwardParams p;
  p.m = x.size(0);
  p.n = weight.size(0);
  p.k = x.size(1);
  p.x = x.data<float>();
  p.ldx = row_stride(x);
  p.weight = weight_matrix(weight);
  p.weight.packed = packed.defined() ? packed.data<bfloat16>() : nullptr;
  p.bias = bias.defined() ? bias.data<float>() : nullptr;
  p.bf16 = compute == DType::kBF16;
  p.y = y.data<float>();
  p.ldy = row_stride(y);
  cpu::linear_forward(ctx.threads(), ctx.scratch(), p);
}

void matrix_grad_x(Context& ctx, const Tensor& grad_y, const Tensor& weight, DType compute, const Tensor& grad_x,
                   bool accumulate) {
  if (!grad_y.device().is_cpu()) {
    return device_product(grad_y, false, weight, false, factor_dtype(grad_y, compute), grad_x, accumulate);
  }
  if (takes_reference(ctx, grad_y.dtype())) {
    const Tensor g = reference_factor(grad_y, grad_y.dtype(), compute);
    const Tensor w = reference_factor(weight, grad_y.dtype(), compute);
    with_type(grad_y.dtype(), [&](auto zero) {
      using T = decltype(zero);
      reference::matmul<T>(view_of<const T, 2>(g), view_of<const T, 2>(w), view_of<T, 2>(grad_x), accumulate);
    });
    return;
  }
  LinearGradXParams p;
  p.m = grad_y.size(0);
  p.n = weight.size(0);
  p.k = weight.size(1);
  p.grad_y = grad_y.data<float>();
  p.ldgy = row_stride(grad_y);
  p.weight = weight_matrix(weight);
  p.bf16 = compute == DType::kBF16;
  p.accumulate = accumulate;
  p.grad_x = grad_x.data<float>();
  p.ldgx = row_stride(grad_x);
  cpu::linear_grad_x(ctx.threads(), ctx.scratch(), p);
}

void matrix_grad_weight(Context& ctx, const Tensor& grad_y, const Tensor& x, DType compute, const Tensor& grad_weight,
                        bool accumulate) {
  if (!x.device().is_cpu()) {
    return device_product(grad_y, true, x, false, factor_dtype(x, compute), grad_weight, accumulate);
  }
  if (takes_reference(ctx, x.dtype())) {
    const Tensor g = reference_factor(grad_y, x.dtype(), compute), a = reference_factor(x, x.dtype(), compute);
    with_type(x.dtype(), [&](auto zero) {
      using T = decltype(zero);
      reference::matmul<T>(reference::transposed(view_of<const T, 2>(g)), view_of<const T, 2>(a),
                           view_of<T, 2>(grad_weight), accumulate);
    });
    return;
  }
  LinearGradWeightParams p;
  p.m = x.size(0);
  p.n = grad_y.size(1);
  p.k = x.size(1);
  p.grad_y = grad_y.data<float>();
  p.ldgy = row_stride(grad_y);
  p.x = x.data<float>();
  p.ldx = row_stride(x);
  p.bf16 = compute == DType::kBF16;
  p.accumulate = accumulate;
  p.grad_weight = grad_weight.data<float>();
  p.ldgw = row_stride(grad_weight);
  cpu::linear_grad_weight(ctx.threads(), ctx.scratch(), p);
}

void matrix_grad_bias(Context& ctx, const Tensor& grad_y, const Tensor& grad_bias, bool accumulate) {
  if (!grad_y.device().is_cpu()) {
    return cuda::column_sums(cuda::current_stream(grad_y.device().index), device_matrix(grad_y),
                             grad_bias.data<float>(), accumulate);
  }
  if (takes_reference(ctx, grad_y.dtype())) {
    with_type(grad_y.dtype(), [&](auto zero) {
      using T = decltype(zero);
      reference::column_sums<T>(view_of<const T, 2>(grad_y), view_of<T, 1>(grad_bias), accumulate);
    });
    return;
  }
  LinearGradBiasParams p;
  p.m = grad_y.size(0);
  p.n = grad_y.size(1);
  p.grad_y = grad_y.data<float>();
  p.ldgy = row_stride(grad_y);
  p.accumulate = accumulate;
  p.grad_bias = grad_bias.data<float>();
  cpu::linear_grad_bias(ctx.threads(), p);
}

std::vector<Tensor> pack_linear_weights(Context& ctx, std::span<const Tensor> weights) {
  std::vector<std::int64_t> begin{0};
  for (const Tensor& weight : weights) {
    check_shape(kOp, "weight", weight, {-1, -1});
    const std::int64_t n = weight.size(0), k = weight.size(1);
    const bool packs = weight.device().is_cpu() && weight.dtype() == DType::kBF16 && n > 0 && cpu::packs_weights(k);
    begin.push_back(begin.back() + (packs ? cpu::packed_weight_elems(n, k) : 0));
  }
  std::vector<Tensor> packed(weights.size());
  if (begin.back() == 0) return packed;
  const Tensor all = Tensor::empty({begin.back()}, DType::kBF16);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (begin[i] == begin[i + 1]) continue;
    packed[i] = all.slice(0, begin[i], begin[i + 1]);
    cpu::pack_weight(ctx.threads(), weight_matrix(as_matrix(weights[i])), weights[i].size(0), weights[i].size(1),
                     packed[i].data<bfloat16>());
  }
  return packed;
}

Tensor linear_forward(Context& ctx, const LinearArgs& args) {
  check_linear(kOp, args.x, args.weight, args.bias, args.compute);
  check_packed(kOp, args.packed, args.weight);
  Shape shape = args.x.shape();
  shape[shape.rank() - 1] = args.weight.size(0);
  check_algorithm(kOp, ctx, args.x.device());
  const Tensor y = Tensor::empty(shape, output_dtype(args), args.x.device());
  if (y.numel() == 0) return y;
  matrix_forward(ctx, as_matrix(args.x), as_matrix(args.weight), bias_like(args.bias, args.x), args.compute,
                 as_matrix(y), args.packed);
  return y;
}

LinearGrads linear_backward(Context& ctx, const LinearArgs& args, const Tensor& grad_y, bool want_grad_x,
                            const Tensor& grad_weight_into, const Tensor& grad_bias_into) {
  return linear_gradients(ctx, args, grad_y,
                          {{want_grad_x, {}, false},
                           {true, grad_weight_into, grad_weight_into.defined()},
                           {true, grad_bias_into, grad_bias_into.defined()}});
}

namespace {

// Memory of a gradient: the target's when it has some that fits, else its own.
Tensor memory_of(std::string_view name, const GradientTarget& target, const Shape& shape, DType dtype, Device device,
                 bool strided) {
  if (!target.into.defined()) return Tensor::empty(shape, dtype, device);
  check_dtype(kOp, name, target.into, dtype);
  check_device(kOp, name, target.into, device);
  const bool fits = strided ? as_matrix(target.into).raw() == target.into.raw() : target.into.is_contiguous();
  if (!(target.into.shape() == shape) || !fits) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, name,
                 join(strided ? "rows at one distance" : "contiguous", ", shape ", shape.to_string()),
                 target.into.shape().to_string());
  }
  return target.into;
}

}  // namespace

LinearGrads linear_gradients(Context& ctx, const LinearArgs& args, const Tensor& grad_y, const LinearTargets& targets) {
  check_linear(kOp, args.x, args.weight, args.bias, args.compute);
  const DType dtype = args.x.dtype(), parameter = parameter_dtype(args.x);
  const Device device = args.x.device();
  Shape shape = args.x.shape();
  shape[shape.rank() - 1] = args.weight.size(0);
  if (!grad_y.defined() || !(grad_y.shape() == shape)) {
    refuse_value(ErrorCode::kInvalidArgument, kOp, "grad_y", "shape " + shape.to_string(),
                 grad_y.defined() ? grad_y.shape().to_string() : "no tensor");
  }
  check_dtype(kOp, "grad_y", grad_y, dtype);
  check_device(kOp, "grad_y", grad_y, device);
  const Tensor x = as_matrix(args.x), g = as_matrix(grad_y);
  LinearGrads grads;  // all targets are checked before any is written
  if (targets.x.wanted) grads.x = memory_of("grad_x_into", targets.x, args.x.shape(), dtype, device, true);
  if (targets.weight.wanted) {
    grads.weight = memory_of("grad_weight_into", targets.weight, args.weight.shape(), parameter, device, false);
  }
  if (targets.bias.wanted && (args.bias.defined() || targets.bias.into.defined())) {
    grads.bias = memory_of("grad_bias_into", targets.bias, {args.weight.size(0)}, parameter, device, false);
  }
  if (grads.x.defined() && grads.x.numel() > 0) {
    matrix_grad_x(ctx, g, as_matrix(args.weight), args.compute, as_matrix(grads.x), targets.x.accumulate);
  }
  if (grads.weight.defined() && grads.weight.numel() > 0) {
    matrix_grad_weight(ctx, g, x, args.compute, as_matrix(grads.weight), targets.weight.accumulate);
  }
  if (!args.bias.defined()) grads.bias = {};
  if (grads.bias.defined()) matrix_grad_bias(ctx, g, grads.bias, targets.bias.accumulate);
  return grads;
}

}  // namespace coluber::ops
