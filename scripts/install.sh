# Sourced by the other scripts, from the project's root: install_xplm DEVICE makes .venv and installs xplm into it, once.
source scripts/find_python.sh

install_xplm() {
    # CuPy comes in one build for each CUDA; the driver says which it runs.
    local target=.
    if [[ "$1" == cuda* ]]; then
        target=".[cuda13]"
        [[ "$(nvidia-smi 2>/dev/null || true)" =~ CUDA\ Version:\ 12\. ]] && target=".[cuda12]"
    fi

    # The stamp is written last, so an interrupted install is taken up again. What was installed for a GPU serves the
    # CPU too.
    local stamp=.venv/xplm-installed sum installed python
    sum="$(cksum <pyproject.toml)"
    installed="$(cat "$stamp" 2>/dev/null || true)"
    if [[ -x .venv/bin/xplm && "$installed" == "$sum "* ]]; then
        [[ "$target" == . || "$installed" == "$sum $target" ]] && return
    fi
    python="$(find_python)"
    echo "Installing xplm into .venv; this takes a minute." >&2
    "$python" -m venv .venv
    # A pip that can tell how far a download is. Editable: after a `git pull`, the new code runs.
    .venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --upgrade "pip>=24.1"
    .venv/bin/python -m pip install --quiet --quiet --disable-pip-version-check --editable "$target"
    echo "$sum $target" >"$stamp"
}
