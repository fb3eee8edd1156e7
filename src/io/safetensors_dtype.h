// The names of dtypes in safetensors headers.
#pragma once

#include <algorithm>
#include <iterator>
#include <optional>
#include <string_view>

#include "coluber/dtype.h"

namespace coluber {

inline constexpr std::string_view kSafetensorsDtypes = "F32, F64, BF16, F16, I32, I64 or U8";

constexpr std::string_view safetensors_dtype(DType dtype) {
  switch (dtype) {
    case DType::kF32: return "F32";
    case DType::kF64: return "F64";
    case DType::kBF16: return "BF16";
    case DType::kF16: return "F16";
    case DType::kI32: return "I32";
    case DType::kI64: return "I64";
    case DType::kU8: return "U8";
  }
  return "?";
}

constexpr std::optional<DType> dtype_from_safetensors(std::string_view name) {
  for (const DType dtype :
       {DType::kF32, DType::kF64, DType::kBF16, DType::kF16, DType::kI32, DType::kI64, DType::kU8}) {
    if (safetensors_dtype(dtype) == name) return dtype;
  }
  return std::nullopt;
}

// Of the format, but without a DType of ours.
inline bool is_known_safetensors_dtype(std::string_view name) {
  constexpr std::string_view kOthers[] = {"BOOL", "I8",      "I16",     "U16",         "U32",
                                          "U64",  "F8_E4M3", "F8_E5M2", "F8_E8M0",     "C64",
                                          "F4",   "F6_E2M3", "F6_E3M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"};
  return std::find(std::begin(kOthers), std::end(kOthers), name) != std::end(kOthers);
}

}  // namespace coluber
