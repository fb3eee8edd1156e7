// One source, several instruction sets.
//
// Every source in this folder that ../CMakeLists.txt names in isa_sources is compiled once per set with COLUBER_ISA
// defined to base, avx2 or avx512, and puts its functions into namespace coluber::cpu::COLUBER_ISA. <op>_isa.h declares
// them (first line below) in coluber::cpu for it and for <op>_dispatch.cc, which picks one when first called:
//
//   COLUBER_DECLARE_PER_ISA(void, scale_span, (float* x, std::int64_t n, float s))
//   void scale(float* x, std::int64_t n, float s) {
//     static const auto kernel = COLUBER_PICK_ISA(scale_span);
//     kernel(x, n, s);
//   }
#pragma once

#include "core/cpu_features.h"

#ifdef COLUBER_ONLY_BASE_ISA
#define COLUBER_DECLARE_PER_ISA(result, name, arguments) \
  namespace base {                                       \
  result name arguments;                                 \
  }
#define COLUBER_PICK_ISA(name) (&base::name)
#else
#define COLUBER_DECLARE_PER_ISA(result, name, arguments) \
  namespace base {                                       \
  result name arguments;                                 \
  }                                                      \
  namespace avx2 {                                       \
  result name arguments;                                 \
  }                                                      \
  namespace avx512 {                                     \
  result name arguments;                                 \
  }
#define COLUBER_PICK_ISA(name)                                             \
  (::coluber::selected_isa() == ::coluber::CpuIsa::kAvx512 ? &avx512::name \
   : ::coluber::selected_isa() == ::coluber::CpuIsa::kAvx2 ? &avx2::name   \
                                                           : &base::name)
#endif
