#!/usr/bin/env bash
# From a fresh clone to an answer: makes .venv, installs xplm, fetches SmolLM2-135M-Instruct, and asks it a question.
# Run again, it installs and downloads nothing.
#
#   bash scripts/quickstart.sh [--device cpu|cuda[:N]] [QUESTION]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/find_python.sh

device=cpu
question="What is gravity?"
while (($#)); do
    case "$1" in
        --device)
            (($# > 1)) || { echo "error: --device needs a value, cpu or cuda" >&2; exit 2; }
            device="$2"
            shift 2
            ;;
        -h | --help)
            sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        -*) echo "error: no option $1; see --help" >&2; exit 2 ;;
        *) question="$1"; shift ;;
    esac
done

# CuPy comes in one build for each CUDA; the driver says which it runs.
target=.
if [[ "$device" == cuda* ]]; then
    target=".[cuda13]"
    [[ "$(nvidia-smi 2>/dev/null || true)" =~ CUDA\ Version:\ 12\. ]] && target=".[cuda12]"
fi

# The stamp is written last, so an interrupted install is taken up again.
stamp=.venv/xplm-installed
wanted="$target $(cksum <pyproject.toml)"
if [[ ! -x .venv/bin/xplm || "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]]; then
    python="$(find_python)"
    echo "Installing xplm into .venv; this takes a minute." >&2
    "$python" -m venv .venv
    # Editable: after a `git pull`, the new code runs.
    .venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --editable "$target"
    echo "$wanted" >"$stamp"
fi

# The model is fetched by the first run, with a progress bar.
exec .venv/bin/xplm generate --chat --device "$device" --prompt "$question"
