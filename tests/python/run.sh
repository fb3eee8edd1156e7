#!/bin/bash
# One step of the Python tests; everything is written below WORK.
#   run.sh wheel PYTHON SOURCE WORK          builds the wheel, installs it into empty environments, looks at its size
#   run.sh sdist PYTHON SOURCE WORK          makes the archive of sources, looks whether all that a wheel takes is in it
#   run.sh plain|torch|harness PYTHON SOURCE WORK FILE   runs one file of tests there
set -euo pipefail
step=$1 python=$2 source=$3 work=$4
# What a wheel may weigh: alone, and with the kernels of CUDA for every GPU of cmake/cuda.cmake inside.
max_wheel_bytes=8000000
[ "${COLUBER_HAS_CUDA:-OFF}" = OFF ] || max_wheel_bytes=20000000
mkdir -p "$work"
cd "$work"

skip() { echo "skipped: $1"; exit 77; }
pip_install() {  # ENVIRONMENT PACKAGES...: quietly; a package index that cannot be reached is no failure of ours
  local pip=$1/bin/pip log=$work/pip.log
  shift
  if ! "$pip" install --quiet --disable-pip-version-check "$@" >"$log" 2>&1; then
    cat "$log"
    if grep -qE 'No matching distribution|Connection|Temporary failure|timed out|Max retries' "$log"; then
      skip "pip cannot reach a package index for: $*"
    fi
    exit 1
  fi
}
environment() { [ -x "$1/bin/pip" ] || { rm -rf "$1" && "$python" -m venv ${2:+"$2"} "$1"; }; }

if [ "$step" = wheel ]; then
  command -v "$python" >/dev/null || skip "there is no Python 3"
  "$python" -c 'import venv, ensurepip' 2>/dev/null || skip "$python has no venv (apt-get install python3-venv)"
  rm -f ready ./*.whl  # nothing runs with what an earlier build left
  environment build
  pip_install build 'scikit-build-core>=0.10' 'nanobind>=2.4' typing_extensions
  build/bin/pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir . \
    --config-settings "build-dir=$work/wheel-{wheel_tag}" "$source" >wheel.log 2>&1 || { tail -n 60 wheel.log; exit 1; }
  wheel=$(ls coluber-*.whl)
  size=$(wc -c <"$wheel")
  echo "$wheel: $size bytes"
  [ "$size" -le $max_wheel_bytes ] || { echo "expected at most $max_wheel_bytes bytes"; exit 1; }
  # Alone: no numpy, no torch, no compiler, away from the sources.
  environment empty
  empty/bin/pip install --quiet --disable-pip-version-check --no-index --force-reinstall "./$wheel"
  (cd / && "$work/empty/bin/python" -c 'import coluber; print("coluber", coluber.__version__, coluber.cpu_isa())')
  (cd / && "$work/empty/bin/coluber" --version && "$work/empty/bin/python" -m coluber info >/dev/null)
  environment plain
  pip_install plain pytest numpy mypy
  plain/bin/pip install --quiet --disable-pip-version-check --no-index --no-deps --force-reinstall "./$wheel"
  environment torch --system-site-packages
  pip_install torch pytest
  torch/bin/pip install --quiet --disable-pip-version-check --no-index --no-deps --force-reinstall "./$wheel"
  touch ready
  exit 0
fi

if [ "$step" = sdist ]; then
  rm -rf sdist
  (cd "$source" && "$work/build/bin/python" -c 'import sys; from scikit_build_core.build import build_sdist
build_sdist(sys.argv[1])' "$work/sdist") >sdist.log 2>&1 || { tail -n 60 sdist.log; exit 1; }
  tar -tzf sdist/coluber-*.tar.gz | sed 's|^[^/]*/||' | sort >sdist/has
  (cd "$source" && find CMakeLists.txt LICENSE pyproject.toml apps cmake include python src tools tests/python -type f \
    ! -path '*/__pycache__/*') | sort >sdist/wants
  missing=$(comm -13 sdist/has sdist/wants)
  echo "$(wc -l <sdist/wants) files, $(wc -c <sdist/coluber-*.tar.gz) bytes"
  [ -z "$missing" ] || { echo "not in the archive: $missing"; exit 1; }
  exit 0
fi

[ -f ready ] || skip "there is no wheel to test (see python.wheel)"
file=$5
run=("$work/$step/bin/python")
if [ "$step" = harness ]; then  # lm_eval brings some 300 MB with it, so it has an environment of its own
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || skip "lm_eval wants Python 3.10 or later"
  environment harness
  pip_install harness pytest numpy lm_eval
  harness/bin/pip install --quiet --disable-pip-version-check --no-index --no-deps --force-reinstall ./coluber-*.whl
fi
if [ "$step" = torch ]; then
  if [ -n "${COLUBER_TORCH_PYTHON:-}" ]; then  # its torch and its pytest, our wheel in front
    rm -rf with-torch
    "$COLUBER_TORCH_PYTHON" -m pip install --quiet --no-index --no-deps --target with-torch ./coluber-*.whl
    run=(env "PYTHONPATH=$work/with-torch" "$COLUBER_TORCH_PYTHON")
  fi
  "${run[@]}" -c 'import torch; print("torch", torch.__version__)' 2>/dev/null ||
    skip "torch is not installed (apt-get install python3-torch, or COLUBER_TORCH_PYTHON=an interpreter that has it)"
fi
code=0
log=$work/${file%.py}.log
"${run[@]}" -m pytest -q -rs -p no:cacheprovider --rootdir "$source/tests/python" "$source/tests/python/$file" >"$log" 2>&1 || code=$?
cat "$log"
if [ $code = 5 ]; then  # none ran: the whole file says why, or it has no test
  reason=$(sed -n 's/^SKIPPED \[[0-9]*\] [^ ]*: //p' "$log" | head -n 1)
  [ -n "$reason" ] || { echo "no test in $file"; exit 1; }
  skip "$reason"
fi
exit $code
