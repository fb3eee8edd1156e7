# Warnings for our own code; gcc 12 and clang 14 print none.
add_library(coluber_warnings INTERFACE)
target_compile_options(coluber_warnings INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wpedantic;-Wshadow;-Wconversion;-Wno-sign-conversion;-Wold-style-cast>"
  "$<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor;-Woverloaded-virtual;-Wnull-dereference;-Wimplicit-fallthrough>"
  # gcc 12 sees overlaps in std::string that are not there (its bug 105651)
  "$<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-psabi;-Wno-null-dereference;-Wno-dangling-pointer;-Wno-maybe-uninitialized>"
  $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-restrict>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Wno-unused-parameter>
  $<$<AND:$<BOOL:${COLUBER_WERROR}>,$<COMPILE_LANGUAGE:CXX>>:-Werror>)
