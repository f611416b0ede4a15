#!/usr/bin/env bash
# Runs the whole test suite in an environment of its own, which it makes and removes.
#
#   bash scripts/test.sh [--keep DIR] [PYTEST ARGUMENTS]
#
# --keep DIR makes the environment in DIR and leaves it there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/find_python.sh

if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
    sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
fi
python="$(find_python)"
if [[ "${1:-}" == --keep ]]; then
    (($# > 1)) || { echo "error: --keep needs a directory" >&2; exit 2; }
    environment="$2"
    shift 2
else
    environment="$(mktemp -d)"
    trap 'rm -rf "$environment"' EXIT
fi

"$python" -m venv "$environment"
pip=("$environment/bin/python" -m pip --disable-pip-version-check)

# First as users get it: a wheel, run from elsewhere. Then editable, so that the tests see the sources.
extras=dev,reference,jax
if command -v nvidia-smi >/dev/null; then extras+=,cuda13; fi
# Modules become bytecode when they are imported, as most of PyTorch never is, and then it is kept.
unset PYTHONDONTWRITEBYTECODE
"${pip[@]}" install --quiet --quiet --no-compile --constraint scripts/constraints.txt ".[$extras]"
(cd / && "$environment/bin/xplm" --version)
"${pip[@]}" install --quiet --quiet --no-deps --editable .
"$environment/bin/xplm" pull smollm2-135m-instruct

# One worker a core, so each computes on one: what BLAS and PyTorch would start beside it takes time from the others.
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1
# What most tests run is compiled beforehand, once: else the workers, and the commands that they start, compile it twice.
warm_up() { "$environment/bin/xplm" "$@" >/dev/null; }
(for policy in fp32 bf16 fp16; do
    warm_up generate "To be" --policy "$policy" --max-new-tokens 2 --quiet
done) &
for arch in llama gpt; do warm_up bench --train "$arch" --repeats 1; done
wait "$!"
# A file's tests stay with one worker, so that its models are loaded and its kernels compiled once. Files are taken in
# order, or else those of few long tests would come last, one worker idle.
"$environment/bin/python" -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder "$@"
