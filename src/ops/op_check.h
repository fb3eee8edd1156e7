// What every op does first: check dtypes and shapes, and turn tensors into kernel views. An undefined tensor passes for
// (0) f32: ask defined() before either check.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>

#include "coluber/context.h"
#include "coluber/tensor.h"
#include "core/check.h"
#include "kernels/view.h"

namespace coluber::ops {

// Shape check with -1 as "any": check_shape("linear", "weight", w, {-1, in}).
inline void check_shape(std::string_view op, std::string_view what, const Tensor& t,
                        std::initializer_list<std::int64_t> expected) {
  bool ok = t.rank() == static_cast<int>(expected.size());
  int axis = 0;
  for (std::int64_t extent : expected) {
    ok = ok && (extent < 0 || t.size(axis) == extent);
    ++axis;
  }
  if (ok) return;
  std::string text = "(";
  for (std::int64_t extent : expected) {
    if (text.size() > 1) text += ", ";
    text += extent < 0 ? "any" : std::to_string(extent);
  }
  refuse_value(ErrorCode::kInvalidArgument, op, what, "shape " + text + ")",
               t.defined() ? t.shape().to_string() : "no tensor");
}

inline void check_dtype(std::string_view op, std::string_view what, const Tensor& t, DType expected) {
  if (t.dtype() == expected) return;
  refuse_value(ErrorCode::kInvalidArgument, op, join("dtype of ", what), dtype_name(expected), dtype_name(t.dtype()));
}

// What activations may be stored in: f32 or f64 on the CPU (f64 by the reference kernels), f32, bf16 or f16 on a GPU.
inline void check_storage(std::string_view op, std::string_view what, const Tensor& t) {
  const bool cpu = t.device().is_cpu();
  const DType dtype = t.dtype();
  if (dtype == DType::kF32 || (cpu ? dtype == DType::kF64 : dtype == DType::kBF16 || dtype == DType::kF16)) return;
  const char* hint =
      dtype == DType::kF64 ? "f64 is computed on the cpu alone: convert it with to(dtype) or move it" : "";
  refuse_value(ErrorCode::kInvalidArgument, op, join("dtype of ", what),
               cpu ? "f32 or f64" : "f32, bf16 or f16 on a GPU", dtype_name(dtype), hint);
}

// What parameters and states have beside activations of `dtype`: the same on the CPU, f32 on a GPU.
inline DType parameter_dtype(const Tensor& activations) {
  return activations.device().is_cpu() ? activations.dtype() : DType::kF32;
}

inline void check_device(std::string_view op, std::string_view what, const Tensor& t, Device expected) {
  if (!t.defined() || t.device() == expected) return;
  refuse_value(ErrorCode::kInvalidArgument, op, join("device of ", what), device_name(expected),
               device_name(t.device()), "move it with to(device)");
}

// Memory of the caller that a gradient is written to: like its tensor, the last axis without gaps.
inline void check_target(std::string_view op, std::string_view what, const Tensor& target, const Tensor& like) {
  const bool unit = target.rank() > 0 && (target.size(-1) <= 1 || target.stride(-1) == 1);
  if (!(target.shape() == like.shape()) || !unit) {
    refuse_value(ErrorCode::kInvalidArgument, op, what,
                 join("shape ", like.shape().to_string(), ", the last axis without gaps"), target.shape().to_string());
  }
  check_dtype(op, what, target, like.dtype());
  check_device(op, what, target, like.device());
}

// The plain loops are for the CPU: who suspects a kernel of a GPU compares with them there.
inline void check_algorithm(std::string_view op, const Context& ctx, Device device) {
  if (device.is_cpu() || ctx.algorithm() == Algorithm::kAuto) return;
  refuse_value(ErrorCode::kUnsupported, op, "algorithm", join("auto on ", device_name(device)),
               algorithm_name(ctx.algorithm()), "reference and cpu kernels need tensors on the cpu");
}

// Calls f(T{}) with the C++ type of activations on a GPU.
template <class F>
decltype(auto) with_storage(DType dtype, F&& f) {
  if (dtype == DType::kBF16) return f(bfloat16{});
  if (dtype == DType::kF16) return f(float16{});
  return f(float{});
}

// The view of a tensor of exactly Rank axes; an absent view for an undefined tensor.
template <class T, int Rank>
View<T, Rank> view_of(const Tensor& t) {
  View<T, Rank> v;
  if (!t.defined()) return v;
  check_equal("tensor", "rank", Rank, t.rank());
  v.data = t.data<std::remove_const_t<T>>();
  for (int axis = 0; axis < Rank; ++axis) {
    v.shape[axis] = t.size(axis);
    v.strides[axis] = t.stride(axis);
  }
  return v;
}

}  // namespace coluber::ops
