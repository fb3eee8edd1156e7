# The library as others see it: target coluber::coluber, one archive (or shared object) made of the objects of all
# layers, with include/coluber as its only headers. BUILD_SHARED_LIBS decides which. (The command line program is target
# coluber_cli with OUTPUT_NAME coluber; it and the tests link the layers themselves.)
get_property(layers GLOBAL PROPERTY COLUBER_LAYERS)
get_property(isa_objects GLOBAL PROPERTY COLUBER_ISA_OBJECTS)

set(objects "")
set(libraries "")  # what the layers use from outside
foreach(layer IN LISTS layers isa_objects)
  list(APPEND objects "$<TARGET_OBJECTS:${layer}>")
  get_target_property(linked ${layer} LINK_LIBRARIES)
  foreach(library IN LISTS linked)
    if(library AND NOT library MATCHES "coluber_")
      list(APPEND libraries "${library}")
    endif()
  endforeach()
endforeach()
list(REMOVE_DUPLICATES libraries)

add_library(coluber ${objects})
add_library(coluber::coluber ALIAS coluber)
target_include_directories(coluber PUBLIC
  "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>" "$<INSTALL_INTERFACE:include>")
target_compile_features(coluber PUBLIC cxx_std_20)
target_link_libraries(coluber PRIVATE ${libraries})
# Before 1.0 a minor version may break the binary interface, so the soname carries it.
set_target_properties(coluber PROPERTIES
  LINKER_LANGUAGE CXX VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
