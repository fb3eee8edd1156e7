# One static library per layer of src/, so that a layer builds and is tested without those above it.
#
#   coluber_add_layer(ops SOURCES a.cc b.cc LAYERS core kernels)
# makes target coluber_ops. The installed library `coluber` is made of all of them (src/CMakeLists.txt).
function(coluber_add_layer name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LAYERS;LIBRARIES" ${ARGN})
  if(NOT ARG_SOURCES)
    file(WRITE "${CMAKE_BINARY_DIR}/empty.cc" "")
    set(ARG_SOURCES "${CMAKE_BINARY_DIR}/empty.cc")
  endif()
  add_library(coluber_${name} STATIC ${ARG_SOURCES})
  target_include_directories(coluber_${name} PUBLIC
    "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>" "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/src>")
  target_link_libraries(coluber_${name} PRIVATE $<BUILD_INTERFACE:coluber_warnings>)
  # What is rounded must not depend on how a loop was vectorised: left to it, gcc fuses the reference kernels' sums or not
  # as the strides are. Fast loops are isa.cmake's, with flags of their own.
  target_compile_options(coluber_${name} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>)
  foreach(layer IN LISTS ARG_LAYERS)
    target_link_libraries(coluber_${name} PUBLIC coluber_${layer})
  endforeach()
  target_link_libraries(coluber_${name} PUBLIC ${ARG_LIBRARIES})
  set_property(GLOBAL APPEND PROPERTY COLUBER_LAYERS coluber_${name})
endfunction()
