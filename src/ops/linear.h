// The products of a linear layer on matrices that are already checked: the part that linear and the head with cross
// entropy share. Chooses between the reference and the fast kernel; kernels/matmul.h has the formulas.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "coluber/context.h"
#include "coluber/ops.h"
#include "coluber/tensor.h"
#include "kernels/matmul.h"

namespace coluber::ops {

// The plain loops are taken for f64, and for f32 when the context asks for them.
bool takes_reference(const Context& ctx, DType dtype);

// (...,n), rank 1 or more, as (tokens,n) with contiguous rows: a view where the strides allow it, else a copy.
Tensor as_matrix(const Tensor& t);

// A matrix as from as_matrix, as the kernels of a GPU see it.
cuda::Matrix device_matrix(const Tensor& matrix);

// x of f32 or f64 (on a GPU f32, bf16 or f16); weight (out,in) of a dtype that goes with it; compute f32 or bf16.
void check_linear(std::string_view op, const Tensor& x, const Tensor& weight, const Tensor& bias, DType compute);

// What pack_linear_weights gave for `weight`, or undefined.
void check_packed(std::string_view op, const Tensor& packed, const Tensor& weight);

// A bias of the dtype that parameters have beside x; undefined stays undefined.
Tensor bias_like(const Tensor& bias, const Tensor& x);

// What a product of x with `weight` multiplies on a GPU: for many tokens the weight in 16 bits where factors are, so
// that who has several products of it rounds it once. Else `weight`.
Tensor product_weight(const Tensor& x, const Tensor& weight, DType compute);

// Each W (out,in) of bf16 once more, in the order in which tiles of this processor read it (kernels/matmul.h), all in
// one piece of memory, in which those to come are near. Undefined where that gains nothing.
std::vector<Tensor> pack_linear_weights(Context& ctx, std::span<const Tensor> weights);

// Matrices as from as_matrix, results too; `packed` as in LinearArgs. `accumulate` adds to the result instead of
// overwriting it.
void matrix_forward(Context& ctx, const Tensor& x, const Tensor& weight, const Tensor& bias, DType compute,
                    const Tensor& y, const Tensor& packed = {});
void matrix_grad_x(Context& ctx, const Tensor& grad_y, const Tensor& weight, DType compute, const Tensor& grad_x,
                   bool accumulate = false);
void matrix_grad_weight(Context& ctx, const Tensor& grad_y, const Tensor& x, DType compute, const Tensor& grad_weight,
                        bool accumulate);
void matrix_grad_bias(Context& ctx, const Tensor& grad_y, const Tensor& grad_bias, bool accumulate);

// linear_backward without what nobody asks for, since the gradient of a frozen weight costs as much as that of x, and
// with a say where gradients go. An undefined bias has none.
struct GradientTarget {
  bool wanted = true;
  Tensor into;              // of x: rows may be strided; undefined: memory of its own
  bool accumulate = false;  // adds to `into` instead of overwriting it
};
struct LinearTargets {
  GradientTarget x, weight, bias;
};
LinearGrads linear_gradients(Context& ctx, const LinearArgs& args, const Tensor& grad_y, const LinearTargets& targets);

}  // namespace coluber::ops
