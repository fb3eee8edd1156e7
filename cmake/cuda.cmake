# CUDA, where nvcc is. COLUBER_HAS_CUDA says whether this build has it; the sources then are those of the folders cuda/,
# else those of no_cuda/ with the same symbols.
set(COLUBER_HAS_CUDA OFF)
if(COLUBER_WITH_CUDA AND NOT COLUBER_SANITIZE AND NOT CMAKE_CROSSCOMPILING)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    # Code for 8.0 runs on all of 8.x, for 9.0a on Hopper, which is all of 9.x; newer ones take what is named for them or
    # compile the last one's PTX at start.
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND NOT DEFINED ENV{CUDAARCHS})
      set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real 90-virtual CACHE STRING "GPUs to build for")
      set(chosen_by_us ON)
    endif()
    if(COLUBER_CCACHE AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
      set(CMAKE_CUDA_COMPILER_LAUNCHER "${COLUBER_CCACHE}")
    endif()
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    foreach(kind STANDARD EXTENSION)  # CMake 3.25 does not know that nvcc 13 takes it
      if(NOT CMAKE_CUDA20_${kind}_COMPILE_OPTION)
        set(CMAKE_CUDA20_${kind}_COMPILE_OPTION -std=c++20)
      endif()
    endforeach()
    set(CMAKE_CUDA_STANDARD 20)
    if(chosen_by_us AND CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
      set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real 100-real 120 CACHE STRING "GPUs to build for" FORCE)
    endif()
    # A fifth of the bytes for the same kernels; drivers that CUDA 13 runs on all know how to unpack them.
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13)
      set(COLUBER_CUDA_SIZE_OPTION --compress-mode=size)
    endif()
    set(COLUBER_HAS_CUDA ON)
  endif()
endif()
if(COLUBER_HAS_CUDA)
  message(STATUS "CUDA: ${CMAKE_CUDA_COMPILER_VERSION}, for ${CMAKE_CUDA_ARCHITECTURES}")
else()
  message(STATUS "CUDA: none")
endif()

# Headers and the static runtime: nothing of CUDA is needed to start a program, only to use a GPU.
function(coluber_use_cuda target)
  target_include_directories(${target} SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  target_compile_options(${target} PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;${COLUBER_CUDA_SIZE_OPTION}>")
  target_link_libraries(${target} PRIVATE "${CUDA_cudart_static_LIBRARY}" ${CMAKE_DL_LIBS} rt)
  set_target_properties(${target} PROPERTIES CUDA_RUNTIME_LIBRARY None)
endfunction()
