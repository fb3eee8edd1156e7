# Shared by ./demo, ./check and tools/*.sh: stage lines with times, quiet commands with a log, machine limits.
# shellcheck shell=bash
set -euo pipefail

coluber_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
log_dir=$coluber_root/build/log
stage_name=
stage_start=0

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then
  on_terminal=1 bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' plain=$'\e[0m'
else
  on_terminal=0 bold='' dim='' red='' plain=''
fi

now_ms() { local t=${EPOCHREALTIME/[.,]/}; printf '%s' $((t / 1000)); }

# 4.2 s, 3:07
duration() {
  local ms=$1
  if [ "$ms" -lt 60000 ]; then
    printf '%d.%d s' $((ms / 1000)) $((ms % 1000 / 100))
  else
    printf '%d:%02d' $((ms / 60000)) $((ms / 1000 % 60))
  fi
}

# stage NAME: what follows belongs to it until stage_end.
stage() { stage_name=$1 stage_start=$(now_ms); }
# stage_note TEXT: what the stage is doing right now; on a terminal it stays on one line.
stage_note() {
  if [ $on_terminal = 1 ]; then
    printf '\r\e[K  %-11s %s' "$stage_name" "$1"
  else
    printf '  %-11s %s\n' "$stage_name" "$1"
  fi
}
# The same on a terminal only, for stages that are short.
stage_busy() { [ $on_terminal = 0 ] || stage_note "$1"; }
stage_end() {
  [ $on_terminal = 1 ] && printf '\r\e[K'
  printf '  %-11s %s  %s%s%s\n' "$stage_name" "$1" "$dim" "$(duration $(($(now_ms) - stage_start)))" "$plain"
}
fail() {
  [ $on_terminal = 1 ] && printf '\r\e[K'
  printf '%s%s%s\n' "$red" "$*" "$plain" >&2
  exit 1
}

# quietly LOG COMMAND...: output goes to build/log/LOG; its end is shown when the command fails.
quietly() {
  local log=$log_dir/$1
  shift
  mkdir -p "$log_dir"
  if ! "$@" >"$log" 2>&1 </dev/null; then
    [ $on_terminal = 1 ] && printf '\r\e[K'
    printf '  %s failed: %s\n' "$stage_name" "$*"
    tail -n 40 "$log" | sed 's/^/    /'
    fail "$stage_name failed; the whole output is in ${log#"$coluber_root"/}"
  fi
}

# Compile jobs at once: a core each, but 1.5 GiB of memory each too (the largest translation unit takes about 1 GiB).
build_jobs() {
  local cores mib limit
  cores=$(nproc)
  mib=$(awk '/^MemAvailable:/ { print int($2 / 1024) }' /proc/meminfo 2>/dev/null || echo 4096)
  limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || echo max)
  if [ "$limit" != max ] && [ $((limit / 1048576)) -lt "$mib" ]; then mib=$((limit / 1048576)); fi
  local by_memory=$((mib / 1536))
  [ $by_memory -lt 1 ] && by_memory=1
  echo $((cores < by_memory ? cores : by_memory))
}
