#!/bin/bash
# Installs the Debian packages of tools/packages that are missing. Works as root or through sudo, asks nothing.
#   tools/setup.sh [build] [test] [python] [demo]      groups; build and the optional ones are always taken
. "$(dirname "$0")/lib.sh"
stage packages
list=$coluber_root/tools/packages
groups=" build optional $* "

wanted=() optional=()
while read -r name group _; do
  case $name in '' | '#'*) continue ;; esac
  case $groups in *" $group "*) wanted+=("$name") ;; esac
  [ "$group" = optional ] && optional+=("$name")
done <"$list"

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  for tool in cmake ninja c++; do
    command -v $tool >/dev/null || fail "This is not a Debian system: install what tools/packages lists yourself ('$tool' is missing)."
  done
  stage_end "not a Debian system: taking the tools that are there"
  exit 0
fi

# Names of the arguments that are not installed.
missing_of() {
  dpkg-query -W -f='${db:Status-Status} ${Package}\n' "$@" 2>/dev/null | awk -v all="$*" '
    $1 == "installed" { have[$2] = 1 }
    END { n = split(all, name, " "); for (i = 1; i <= n; ++i) if (!(name[i] in have)) print name[i] }'
}
is_optional() { case " ${optional[*]} " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }

mapfile -t missing < <(missing_of "${wanted[@]}")
# An optional package that this distribution does not have is not asked for again and again.
without=$log_dir/packages-not-here
if [ ${#missing[@]} -gt 0 ] && [ -f "$without" ]; then
  mapfile -t missing < <(printf '%s\n' "${missing[@]}" | grep -vxFf "$without" || true)
fi
if [ ${#missing[@]} -eq 0 ]; then
  stage_end "all ${#wanted[@]} there"
  exit 0
fi

as_root=()
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || fail "Missing packages. As root, run:  apt-get install -y ${missing[*]}"
  as_root=(sudo)
  if ! sudo -n true 2>/dev/null; then
    [ -t 0 ] || fail "Missing packages, and sudo would ask for a password. Run:  sudo apt-get install -y ${missing[*]}"
    printf '  %-11s sudo may ask for your password to install: %s\n' packages "${missing[*]}"
    sudo -v || fail "No right to install packages. Ask for:  apt-get install -y ${missing[*]}"
  fi
fi
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 apt-get -q -o DPkg::Lock::Timeout=120 "$@"; }

stage_note "apt-get update"
mkdir -p "$log_dir"
apt update >"$log_dir/apt-update.log" 2>&1 </dev/null || stage_note "apt-get update failed; trying with the lists that are there"

install=()
: >"$without"
for name in "${missing[@]}"; do
  if is_optional "$name" && ! apt-cache show "$name" >/dev/null 2>&1; then
    echo "$name" >>"$without"
  else
    install+=("$name")
  fi
done
if [ ${#install[@]} -gt 0 ]; then
  stage_note "installing ${install[*]}"
  quietly apt-install.log apt install -y --no-install-recommends "${install[@]}"
fi
if [ -s "$without" ]; then
  stage_end "${#install[@]} installed; not in this distribution, done without: $(tr '\n' ' ' <"$without")"
else
  stage_end "${#install[@]} installed"
fi
