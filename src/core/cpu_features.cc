#include "core/cpu_features.h"

#include <algorithm>
#include <cstdlib>

#include "coluber/context.h"
#include "core/check.h"

namespace coluber {
namespace {

CpuIsa best_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma")) {
    return CpuIsa::kAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return CpuIsa::kAvx2;
#endif
  return CpuIsa::kBase;
}

CpuIsa choose() {
  const CpuIsa best = best_isa();
  const char* forced = std::getenv("COLUBER_ISA");
  if (forced == nullptr || *forced == '\0') return best;
  const std::string_view name = forced;
  for (CpuIsa isa : {CpuIsa::kBase, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    constexpr std::string_view kNames[] = {"base", "avx2", "avx512"};
    if (name != kNames[static_cast<int>(isa)]) continue;
    if (isa > best) {
      refuse_value(ErrorCode::kUnsupported, "cpu", "COLUBER_ISA", "a set that this machine has", name,
                   "unset it to take the best one");
    }
    return isa;
  }
  refuse_value(ErrorCode::kInvalidArgument, "cpu", "COLUBER_ISA", "base, avx2 or avx512", name);
}

}  // namespace

CpuIsa selected_isa() {
  static const CpuIsa isa = choose();
  return isa;
}

bool has_avx512_bf16() {
#if defined(__x86_64__)
  static const bool has = selected_isa() == CpuIsa::kAvx512 && __builtin_cpu_supports("avx512bf16");
  return has;
#else
  return false;
#endif
}

std::string_view cpu_isa() {
  constexpr std::string_view kNames[] = {"base", "avx2", "avx512"};
  return kNames[static_cast<int>(selected_isa())];
}

}  // namespace coluber
