# Sourced by the other scripts: `find_python` prints a Python that can make an environment, or says what is missing.

find_python() {
    local candidate
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            if ! "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
                echo "error: $candidate cannot make environments; install its venv module (Debian: apt-get install python3-venv)" >&2
                return 2
            fi
            echo "$candidate"
            return 0
        fi
    done
    echo "error: Python 3.11 or newer is needed; got $(python3 --version 2>&1 || true); install one and put it on PATH" >&2
    return 2
}
