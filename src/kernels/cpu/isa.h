// One source, several instruction sets.
//
// Every source in this folder that is listed under ISA_SOURCES is compiled once per set with COLUBER_ISA defined to
// base, avx2 or avx512, and puts its functions into namespace coluber::cpu::COLUBER_ISA. The dispatching function in
// coluber::cpu picks one when first called:
//
//   COLUBER_DECLARE_PER_ISA(void, scale, (float* x, std::int64_t n, float s))
//   void scale(float* x, std::int64_t n, float s) {
//     static const auto kernel = COLUBER_PICK_ISA(scale);
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
