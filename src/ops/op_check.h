// What every op does first: check dtypes and shapes, and turn tensors into kernel views. An undefined tensor passes for
// (0) f32: ask defined() before either check.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>

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
