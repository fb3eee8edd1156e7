#include "core/cpu_features.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

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

bool request_amx_bf16() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr unsigned kTileBf16 = 1u << 22, kTiles = 1u << 24;           // CPUID leaf 7, EDX
  constexpr unsigned long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, since Linux 5.16
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  if ((edx & kTileBf16) == 0 || (edx & kTiles) == 0) return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
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

bool has_fast_avx512_bf16() {
#if defined(__x86_64__)
  return has_avx512_bf16() && __builtin_cpu_is("amd");
#else
  return false;
#endif
}

bool has_amx_bf16() {
  static const bool has = selected_isa() == CpuIsa::kAvx512 && request_amx_bf16();
  return has;
}

std::string_view cpu_isa() {
  constexpr std::string_view kNames[] = {"base", "avx2", "avx512"};
  return kNames[static_cast<int>(selected_isa())];
}

}  // namespace coluber
