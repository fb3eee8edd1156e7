# The sources of src/kernels/cpu are compiled once per instruction set, each time into its own namespace.
#
#   coluber_add_isa_sources(TARGET a.cc b.cc)
# adds every source for `base` and, on x86-64, for `avx2` and `avx512`. Inside, COLUBER_ISA is the namespace name and
# COLUBER_ISA_BASE, _AVX2 or _AVX512 is defined.
set(COLUBER_ISA_FLAGS_base "")
set(COLUBER_ISA_FLAGS_avx2 -mavx2 -mfma -mf16c)
# No -mavx512bf16 and no AMX here: who uses them writes the instruction itself and asks has_avx512_bf16() or
# has_amx_bf16() first (src/kernels/cpu/gemm_own*.h).
set(COLUBER_ISA_FLAGS_avx512 -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mprefer-vector-width=512)

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(COLUBER_ISAS base avx2 avx512)
else()
  set(COLUBER_ISAS base)
endif()

function(coluber_add_isa_sources target)
  foreach(isa IN LISTS COLUBER_ISAS)
    string(TOUPPER ${isa} upper)
    add_library(${target}_${isa} OBJECT ${ARGN})
    target_compile_definitions(${target}_${isa} PRIVATE COLUBER_ISA=${isa} COLUBER_ISA_${upper})
    target_compile_options(${target}_${isa} PRIVATE -O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math
                           ${COLUBER_ISA_FLAGS_${isa}})
    target_include_directories(${target}_${isa} PRIVATE "${PROJECT_SOURCE_DIR}/include" "${PROJECT_SOURCE_DIR}/src")
    target_link_libraries(${target}_${isa} PRIVATE coluber_warnings)
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${target}_${isa}>)
    set_property(GLOBAL APPEND PROPERTY COLUBER_ISA_OBJECTS ${target}_${isa})  # for cmake/library.cmake
  endforeach()
  if(NOT "avx512" IN_LIST COLUBER_ISAS)
    target_compile_definitions(${target} PRIVATE COLUBER_ONLY_BASE_ISA)
  endif()
endfunction()
