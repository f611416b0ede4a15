#!/usr/bin/env bash
# Runs the test suite in an environment of its own. The environment is kept, and made again when pyproject.toml or
# scripts/constraints.txt has changed.
#
#   bash scripts/test.sh [--environment DIR] [--extras NAMES] [PYTEST ARGUMENTS]
#
# --environment DIR is where it is made and kept; if not given, .venv-tests. --extras eval,... are further ones of xplm's
# to install: tests that need them skip without.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/find_python.sh

if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
fi
environment=.venv-tests extras=dev,reference,jax
while [[ "${1:-}" == --environment || "${1:-}" == --extras ]]; do
    (($# > 1)) || { echo "error: $1 needs a value" >&2; exit 2; }
    if [[ "$1" == --extras ]]; then extras+=",$2"; else environment="$2"; fi
    shift 2
done
if command -v nvidia-smi >/dev/null; then extras+=,cuda13; fi

SECONDS=0
report() { echo "== $1: $SECONDS s"; SECONDS=0; }

make_environment() {
    if [[ -n "$(ls -A "$environment" 2>/dev/null)" && ! -e "$environment/pyvenv.cfg" ]]; then
        echo "error: $environment must be an environment, empty or absent; it holds other files" >&2
        exit 2
    fi
    local interpreter
    interpreter="$(find_python)"
    "$interpreter" -m venv --clear "$environment"
    "${pip[@]}" --quiet --no-compile --upgrade "pip>=25"  # it resolves in half the time
    # First as users get it: a wheel, run from elsewhere. Then editable, so that the tests see the sources.
    "${pip[@]}" --quiet --no-compile --constraint scripts/constraints.txt .
    (cd / && "$python" -m xplm --version)
    "${pip[@]}" --quiet --no-deps --editable .
}

# What else the tests need: of xplm, which is there, pip adds the extras' requirements only.
install_extras() {
    "${pip[@]}" --quiet --no-compile --constraint scripts/constraints.txt "xplm[$extras]"
}

python="$(realpath --no-symlinks "$environment")/bin/python"
pip=("$python" -m pip --disable-pip-version-check install --quiet)
# Modules become bytecode when they are imported, as most of PyTorch never is, and then it is kept.
unset PYTHONDONTWRITEBYTECODE
# One worker a core, so each computes on one: what BLAS and PyTorch would start beside it takes time from the others.
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1
stamp="$environment/installed" sum="$(cat pyproject.toml scripts/constraints.txt | cksum) $extras"
is_installed=0
[[ "$(cat "$stamp" 2>/dev/null)" == "$sum" ]] && is_installed=1
((is_installed)) || make_environment

# Kernels compile while pip unpacks what they do not need, and the last of them while tests are collected.
"$python" scripts/compile_kernels.py &
compiling=$!
if ! ((is_installed)); then
    install_extras || { kill "$compiling"; exit 1; }
    echo "$sum" >"$stamp"
fi
"$python" -m xplm pull smollm2-135m-instruct:q4_1
report install

# A file's tests stay with one worker, so that its models are loaded and its kernels compiled once. Files are taken in
# order, or else those of few long tests would come last, one worker idle.
status=0
"$python" -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder "$@" || status=$?
wait "$compiling" || status=1
report tests
exit "$status"
