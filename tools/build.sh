#!/bin/bash
# Configures and builds one preset of CMakePresets.json into build/PRESET, quietly, with as many jobs as fit.
#   tools/build.sh PRESET [ninja targets]
. "$(dirname "$0")/lib.sh"
preset=${1:?usage: tools/build.sh PRESET [TARGETS]}
shift
cd "$coluber_root"
build=build/$preset
jobs=$(build_jobs)

stage configure
stage_busy "preset $preset"
quietly "configure-$preset.log" cmake --preset "$preset"
stage_end "preset $preset: $(sed -n 's/^CMAKE_CXX_COMPILER:[A-Z]*=//p' "$build/CMakeCache.txt" | xargs basename) $(
  sed -n 's/^set(CMAKE_CXX_COMPILER_VERSION "\(.*\)")/\1/p' "$build"/CMakeFiles/*/CMakeCXXCompiler.cmake | head -n 1)"

stage build
log=$log_dir/build-$preset.log
mkdir -p "$log_dir"
stage_note "with $jobs jobs"
NINJA_STATUS='[%f/%t] ' ninja -C "$build" -j "$jobs" "$@" >"$log" 2>&1 </dev/null &
ninja_pid=$!
trap 'kill $ninja_pid 2>/dev/null || true' INT TERM
# On a terminal the counter is redrawn twice a second; in a file a line a minute shows that work goes on.
ticks=0
while kill -0 $ninja_pid 2>/dev/null; do
  if [ $on_terminal = 1 ]; then sleep 0.5; else sleep 0.2; fi
  ticks=$((ticks + 1))
  if [ $on_terminal = 1 ] || [ $((ticks % 300)) = 0 ]; then
    at=$(tail -c 4096 "$log" | sed -n 's/^\(\[[0-9]*\/[0-9]*\]\).*[ \/]\([^ \/]*\)$/\1 \2/p' | tail -n 1)
    stage_note "$at"
  fi
done
if ! wait $ninja_pid; then
  [ $on_terminal = 1 ] && printf '\r\e[K'
  grep -E -A12 'FAILED:|error:|undefined reference' "$log" | head -n 60 | sed 's/^/    /'
  fail "The build failed; the whole output is in ${log#"$coluber_root"/}"
fi
done_steps=$(grep -c '^\[' "$log" || true)
warnings=$(grep -c 'warning:' "$log" || true)
note="$done_steps steps"
grep -q '^ninja: no work to do' "$log" && note="nothing to do"
[ "$warnings" -gt 0 ] && note="$note, $warnings warnings (${log#"$coluber_root"/})"
stage_end "$note"
