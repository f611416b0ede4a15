#!/usr/bin/env bash
# From a fresh clone to a chat with a model of your own: makes .venv, installs xplm, trains a tiny model on facts and
# then on questions and answers (a minute in all), and opens the chat. Run again, it goes on where it was.
#
#   bash scripts/train_and_chat.sh [--device cpu|cuda[:N]] [--out DIR]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/install.sh

device=cpu
out=runs
while (($#)); do
    case "$1" in
        --device | --out)
            (($# > 1)) || { echo "error: $1 needs a value; see --help" >&2; exit 2; }
            if [[ "$1" == --out ]]; then out="$2"; else device="$2"; fi
            shift 2
            ;;
        -h | --help)
            sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *) echo "error: no option $1; see --help" >&2; exit 2 ;;
    esac
done

install_xplm "$device"
.venv/bin/python -m xplm train facts-pretrain --out "$out/facts" --resume --device "$device"
.venv/bin/python -m xplm train facts-chat --init "$out/facts" --out "$out/facts-chat" --resume --device "$device"
echo "Your model is ready. Ask it, for example: How many legs does a spider have?" >&2
exec .venv/bin/python -m xplm chat --model "$out/facts-chat" --device "$device"
