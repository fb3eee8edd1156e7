#!/bin/bash
# Uses the library as an outside project would. Everything is written below WORK.
#   install_test.sh find_package|pkg_config|shared|subdirectory SOURCE BUILD WORK CXX CXXFLAGS
# `find_package` installs BUILD into WORK/prefix, which `pkg_config` (and tests/examples) then take. `shared` builds the
# library again with BUILD_SHARED_LIBS=ON; `subdirectory` builds it inside of the outside project. With ccache both are
# quick after BUILD, because nothing but the link differs.
set -euo pipefail
how=$1 source=$2 build=$3 work=$4 cxx=$5 flags=$6
project=$source/tests/install/project
prefix=$work/prefix
mkdir -p "$work"

skip() { echo "skipped: $1"; exit 77; }

# build_outside NAME CMAKE-ARGUMENTS...
build_outside() {
  local dir=$work/$1
  shift
  rm -rf "$dir"
  cmake -G Ninja -S "$project" -B "$dir" -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER="$cxx" \
    -DCMAKE_CXX_FLAGS="$flags" "$@" >"$dir.log" 2>&1 || { cat "$dir.log"; exit 1; }
  ninja -C "$dir" >>"$dir.log" 2>&1 || { tail -n 40 "$dir.log"; exit 1; }
  "$dir/outside"
}

# Only what the public is meant to see, and no absolute path of this machine's build.
check_prefix() {
  local found
  found=$(cd "$1" && find . -name '*.h' ! -path './include/coluber/*' -print)
  [ -z "$found" ] || { echo "unexpected headers: $found"; exit 1; }
  found=$(grep -rlF -e "$source" -e "$build" "$1" --include='*.cmake' --include='*.pc' || true)
  [ -z "$found" ] || { echo "these mention the build tree: $found"; exit 1; }
}

case $how in
  find_package)
    rm -rf "$prefix"
    cmake --install "$build" --prefix "$prefix" >"$work/install.log" 2>&1 || { tail "$work/install.log"; exit 1; }
    check_prefix "$prefix"
    ls "$prefix"/lib*/libcoluber.a "$prefix"/lib*/*/libcoluber.a 2>/dev/null || true
    build_outside find_package -DCMAKE_PREFIX_PATH="$prefix"
    if [ -x "$prefix/bin/coluber" ]; then "$prefix/bin/coluber" --version; fi
    # Moved away, the package still works: nothing in it is absolute.
    rm -rf "$work/prefix-moved" && mv "$prefix" "$work/prefix-moved"
    build_outside moved -DCMAKE_PREFIX_PATH="$work/prefix-moved"
    mv "$work/prefix-moved" "$prefix"
    ;;
  pkg_config)
    command -v pkg-config >/dev/null || skip "pkg-config is not installed"
    pc=$(dirname "$(find "$prefix" -name coluber.pc)")
    export PKG_CONFIG_PATH=$pc
    # shellcheck disable=SC2046,SC2086
    "$cxx" -std=c++20 $flags "$project/main.cc" -o "$work/by_pkg_config" $(pkg-config --cflags --libs coluber)
    "$work/by_pkg_config"
    ;;
  shared)
    cmake -G Ninja -S "$source" -B "$work/shared-build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
      -DCMAKE_CXX_COMPILER="$cxx" -DCOLUBER_BUILD_APPS=OFF >"$work/shared.log" 2>&1 || { cat "$work/shared.log"; exit 1; }
    ninja -C "$work/shared-build" >>"$work/shared.log" 2>&1 || { tail -n 40 "$work/shared.log"; exit 1; }
    rm -rf "$work/shared-prefix"
    cmake --install "$work/shared-build" --prefix "$work/shared-prefix" >/dev/null
    check_prefix "$work/shared-prefix"
    library=$(find "$work/shared-prefix" -name 'libcoluber.so.*.*.*')
    soname=$(readelf -d "$library" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')
    echo "$(basename "$library") has soname $soname"
    [[ $soname == libcoluber.so.*.* ]] || exit 1
    build_outside by_shared -DCMAKE_PREFIX_PATH="$work/shared-prefix"
    ;;
  subdirectory) build_outside by_subdirectory -DCOLUBER_FROM="$source" ;;
  *) echo "unknown way: $how" >&2; exit 2 ;;
esac
