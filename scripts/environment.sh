# Sourced by the scripts beside it: makes the virtual environment .venv in the root of the checkout and enters it.

# Print the first Python that is new enough, or say what is missing.
find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.10 python; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "cupyrec needs Python 3.10 or newer; install one, or name it: PYTHON=/path/to/python bash $0" >&2
    return 1
}

# enter_environment EXTRAS: install cupyrec, editable, with the extras named ("" for none).
enter_environment() {
    local python extras="$1"
    if [ ! -x .venv/bin/python ]; then
        python=$(find_python)
        if ! "$python" -m venv .venv; then
            rm -rf .venv
            echo "$python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2
            return 1
        fi
    fi
    # shellcheck disable=SC1091
    . .venv/bin/activate
    python -m pip install --quiet --disable-pip-version-check --editable ".${extras:+[$extras]}"
}

# Print the CUDA extra that fits the driver; nothing where there is no NVIDIA driver.
cuda_extra() {
    local version
    version=$(nvidia-smi 2>/dev/null | sed -n 's/.*CUDA Version: *\([0-9]*\)\..*/\1/p' | head -n 1) || true
    case "$version" in
    "") ;;
    12) echo cuda12 ;;
    *) if [ "$version" -ge 13 ]; then echo cuda13; fi ;;
    esac
}
