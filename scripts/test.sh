#!/usr/bin/env bash
# Runs the test suite in an environment of its own. The environment is kept, and made again when pyproject.toml or
# scripts/constraints.txt has changed.
#
#   bash scripts/test.sh [--environment DIR] [PYTEST ARGUMENTS]
#
# --environment DIR is where it is made and kept; if not given, .venv-tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/find_python.sh

if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
fi
environment=.venv-tests
if [[ "${1:-}" == --environment ]]; then
    (($# > 1)) || { echo "error: --environment needs a directory" >&2; exit 2; }
    environment="$2"
    shift 2
fi

SECONDS=0
report() { echo "== $1: $SECONDS s"; SECONDS=0; }

install() {
    if [[ -n "$(ls -A "$environment" 2>/dev/null)" && ! -e "$environment/pyvenv.cfg" ]]; then
        echo "error: $environment must be an environment, empty or absent; it holds other files" >&2
        exit 2
    fi
    local interpreter
    interpreter="$(find_python)"
    "$interpreter" -m venv --clear "$environment"
    local pip=("$environment/bin/python" -m pip --disable-pip-version-check) extras=dev,reference,jax
    if command -v nvidia-smi >/dev/null; then extras+=,cuda13; fi
    # First as users get it: a wheel, run from elsewhere. Then editable, so that the tests see the sources.
    "${pip[@]}" install --quiet --quiet --no-compile --constraint scripts/constraints.txt ".[$extras]"
    (cd / && "$python" -m xplm --version)
    "${pip[@]}" install --quiet --quiet --no-deps --editable .
}

python="$(realpath --no-symlinks "$environment")/bin/python"
# Modules become bytecode when they are imported, as most of PyTorch never is, and then it is kept.
unset PYTHONDONTWRITEBYTECODE
stamp="$environment/installed" sum="$(cat pyproject.toml scripts/constraints.txt | cksum)"
if [[ "$(cat "$stamp" 2>/dev/null)" != "$sum" ]]; then
    install
    echo "$sum" >"$stamp"
fi
"$python" -m xplm pull smollm2-135m-instruct:q4_1
report install

# One worker a core, so each computes on one: what BLAS and PyTorch would start beside it takes time from the others.
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1
# What most tests run is compiled beforehand, once: else the workers, and the commands that they start, compile it twice.
warm_up() { "$python" -m xplm "$@" >/dev/null; }
(for policy in fp32 bf16 fp16; do
    warm_up generate "To be" --policy "$policy" --max-new-tokens 2 --quiet
done) &
for arch in llama gpt; do warm_up bench --train "$arch" --repeats 1 --quiet; done
wait "$!"
report compile

# A file's tests stay with one worker, so that its models are loaded and its kernels compiled once. Files are taken in
# order, or else those of few long tests would come last, one worker idle.
status=0
"$python" -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder "$@" || status=$?
report tests
exit "$status"
