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
    if [[ "$installed" == "$sum "* ]] && .venv/bin/python -c "import xplm" 2>/dev/null; then
        [[ "$target" == . || "$installed" == "$sum $target" ]] && return
    fi
    python="$(find_python)"
    echo "Installing xplm into .venv; this takes a minute." >&2
    "$python" -m venv .venv
    # A pip that can tell how far a download is. Editable: after a `git pull`, the new code runs.
    local log=.venv/install.log
    if ! .venv/bin/python -m pip install --disable-pip-version-check --upgrade "pip>=24.1" >"$log" 2>&1 ||
        ! .venv/bin/python -m pip install --disable-pip-version-check --editable "$target" >>"$log" 2>&1; then
        echo "error: pip could not install xplm; is there a network? $log has its words: $(grep ERROR "$log" | tail -n 1)" >&2
        exit 2
    fi
    echo "$sum $target" >"$stamp"
}
