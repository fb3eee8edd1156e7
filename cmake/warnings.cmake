# Warnings for our own code; gcc 12 and clang 14 print none.
add_library(coluber_warnings INTERFACE)
target_compile_options(coluber_warnings INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Wold-style-cast -Wnon-virtual-dtor
  -Woverloaded-virtual -Wnull-dereference -Wimplicit-fallthrough
  $<$<CXX_COMPILER_ID:GNU>:-Wno-psabi -Wno-null-dereference -Wno-dangling-pointer -Wno-maybe-uninitialized
    -Wno-restrict>  # gcc 12 sees overlaps in std::string that are not there (its bug 105651)
  $<$<BOOL:${COLUBER_WERROR}>:-Werror>)
