#!/bin/bash
# Executes what a page shows. In FILE, every ```sh and ```cpp fence has a mark on the line before it:
#   <!-- test: NAME -->          it is run, in order, all fences of a page in one folder
#   <!-- not run: REASON -->     it is not
# A shell fence runs under `bash -euo pipefail` with the built `coluber` first in PATH and a text, book.txt, in the
# folder. A C++ fence is compiled against the installation of tests/install and run; one without `int main` is the body
# of main, with coluber.h included and namespace coluber in use.
#   run_snippets.sh FILE WORK BIN PREFIX CXX FLAGS
set -euo pipefail
page=$1 work=$2 bin=$3 prefix=$4 cxx=$5 flags=$6
root=$(cd "$(dirname "$0")/../.." && pwd)

rm -rf "$work"
mkdir -p "$work/snippets" "$work/run"
awk -v out="$work/snippets" '
  /^<!-- test: / { mark = $0; sub(/^<!-- test: */, "", mark); sub(/ *-->.*/, "", mark); next }
  /^<!-- not run: / { mark = "-"; next }
  /^```(sh|cpp)$/ {
    if (mark == "") { print FILENAME ":" FNR ": this fence has no mark"; bad = 1 }
    inside = 1; language = substr($0, 4); skip = (mark == "-" || mark == "")
    file = sprintf("%s/%02d-%s.%s", out, ++count, mark, language); mark = ""
    if (!skip) printf "" > file
    next
  }
  /^```/ { inside = 0; mark = ""; next }
  inside { if (!skip) print > file; next }
  /[^ ]/ { if (mark != "") { print FILENAME ":" FNR ": a mark must stand on the line before its fence"; bad = 1; mark = "" } }
  END { exit bad }
' "$page"

cat "$root"/LICENSE "$root"/README.md >"$work/run/book.txt"
cd "$work/run"
export PATH="$bin:$PATH" COLUBER_SOURCE_DIR="$root"
count=0
for snippet in "$work"/snippets/*; do
  [ -e "$snippet" ] || break
  count=$((count + 1))
  echo "--- $(basename "$snippet")"
  case $snippet in
    *.sh) bash -euo pipefail "$snippet" </dev/null ;;
    *.cpp)
      if ! grep -q 'int main' "$snippet"; then
        { printf '#include <coluber/coluber.h>\n#include <iostream>\nusing namespace coluber;\nint main() {\n'
          cat "$snippet"
          printf '}\n'; } >"$snippet.tmp"
        mv "$snippet.tmp" "$snippet"
      fi
      pc=$(find "$prefix" -name coluber.pc)
      [ -n "$pc" ] && command -v pkg-config >/dev/null || { echo "skipped: pkg-config is not installed"; exit 77; }
      # shellcheck disable=SC2046,SC2086
      "$cxx" -std=c++20 -O1 $flags "$snippet" -o "$snippet.out" \
        $(PKG_CONFIG_PATH=$(dirname "$pc") pkg-config --cflags --libs coluber)
      "$snippet.out" </dev/null
      ;;
  esac || { echo "FAILED: $(basename "$snippet") of $page"; cat "$snippet"; exit 1; }
done
echo "$count snippets of $(basename "$page") run"
