#!/usr/bin/env bash
# From a fresh clone to an answer: makes .venv, installs xplm, fetches SmolLM2-135M-Instruct in Q4_1, and asks it a question.
# Run again, it installs and downloads nothing.
#
#   bash scripts/quickstart.sh [--device cpu|cuda[:N]] [QUESTION]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/install.sh

device=cpu
question="What is gravity?"
while (($#)); do
    case "$1" in
        --device)
            (($# > 1)) || { echo "error: --device needs a value, cpu or cuda" >&2; exit 2; }
            device="$2"
            shift 2
            ;;
        --device=*) device="${1#--device=}"; shift ;;
        -h | --help)
            sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        -*) echo "error: no option $1; see --help" >&2; exit 2 ;;
        *) question="$1"; shift ;;
    esac
done

install_xplm "$device"

# The model is fetched by the first run, with a progress bar.
exec .venv/bin/python -m xplm generate --chat --device "$device" --prompt "$question"
