#!/bin/bash
# The library never prints, exits or aborts: nm finds no symbol that could, in any object of any layer.
#   symbols_test.sh NM ARCHIVE...        exit 77: skipped
set -euo pipefail
nm=$1
shift

# Undefined symbols of the objects, demangled: "object: symbol".
undefined() { "$nm" -C -A --undefined-only "$@" 2>/dev/null | sed -E 's/^[^:]*\/lib([a-z_]+)\.a:([^:]+):.* U /\1\/\2: /'; }

banned='(printf|vprintf|puts|putchar|putc|fputs|fputc|fprintf|vfprintf|__printf_chk|__fprintf_chk|__vfprintf_chk|perror'
banned+='|exit|_exit|_Exit|quick_exit|abort|__assert_fail|raise|stdout|stderr|syslog'
banned+='|std::cout|std::cerr|std::clog|std::ios_base::Init::Init\(\)|std::terminate\(\))(@.*)?$'

# Symbols that the compiler's own runtime brings, "object-pattern: symbol  reason".
allowed='
.*: std::terminate\(\)   # a noexcept function or the destructor of std::thread, as gcc inlines them; never called by name (form_test.cc)
.*\.cu\.o: exit            # nvcc writes it as the host side of a function of the GPU; never called by name (form_test.cc)
.*\.cu\.o: std::ios_base::Init::Init\(\)   # CUB includes <iostream>
'

found=$(undefined "$@" | grep -E ": $banned" || true)
unexpected=$found
while read -r line; do
  pattern=$(sed -E 's/ +#.*//' <<<"$line")
  [ -z "$pattern" ] || unexpected=$(grep -vE "^$pattern$" <<<"$unexpected" || true)
done <<<"$allowed"

echo "archives: $#, undefined symbols: $(undefined "$@" | wc -l), allowed runtime symbols: $(grep -c . <<<"$found" || true)"
[ "$(undefined "$@" | wc -l)" -gt 100 ] || { echo "nm found hardly any symbol: the test itself is broken"; exit 1; }
if [ -n "$unexpected" ]; then
  echo "the library could print, exit or abort through:"
  sed 's/^/  /' <<<"$unexpected"
  exit 1
fi
