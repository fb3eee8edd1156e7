// From a dtype known at run time to a C++ type.
#pragma once

#include "coluber/dtype.h"
#include "core/check.h"

namespace coluber {

// Calls f with a value of the element type.
template <class F>
decltype(auto) visit_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kF32: return f(float{});
    case DType::kF64: return f(double{});
    case DType::kBF16: return f(bfloat16{});
    case DType::kF16: return f(float16{});
    case DType::kI32: return f(std::int32_t{});
    case DType::kI64: return f(std::int64_t{});
    case DType::kU8: return f(std::uint8_t{});
  }
  refuse(ErrorCode::kInternal, "tensor", "unknown dtype");
}

}  // namespace coluber
