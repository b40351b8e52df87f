# Sourced by the scripts beside it: makes the virtual environment .venv in the root of the checkout and enters it.
# Every function fails by `return`, not by `set -e`, which does not hold inside a condition.

# Succeed when $1 is a Python that is new enough.
is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

# Print the Python to use, $PYTHON where that is set, else the first that is new enough; or say what is missing.
find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        if ! command -v "$PYTHON" >/dev/null 2>&1; then
            echo "PYTHON=$PYTHON: there is no such program; name a Python 3.10 or newer" >&2
            return 1
        fi
        if ! is_new_enough "$PYTHON"; then
            echo "PYTHON=$PYTHON: not a Python 3.10 or newer, which cupyrec needs" >&2
            return 1
        fi
        echo "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python3.10 python; do
        if command -v "$candidate" >/dev/null 2>&1 && is_new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "cupyrec needs Python 3.10 or newer; install one, or name it: PYTHON=/path/to/python bash $0" >&2
    return 1
}

# Make .venv where there is none, or where it was made for another place and would lead there, and enter it.
enter_venv() {
    local python
    if [ -x .venv/bin/python ] && ! is_made_for_here; then
        echo "making .venv anew: it was made for another folder" >&2
        rm -rf .venv
    fi
    if [ ! -x .venv/bin/python ]; then
        python=$(find_python) || return 1
        if ! "$python" -m venv .venv; then
            rm -rf .venv
            echo "$python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2
            return 1
        fi
    fi
    # shellcheck disable=SC1091
    . .venv/bin/activate
    is_made_for_here || return 1
}

# Succeed when .venv's own script for entering it leads to this folder: not so where the checkout was moved.
is_made_for_here() {
    (
        # shellcheck disable=SC1091
        . .venv/bin/activate && [ "$VIRTUAL_ENV" -ef .venv ]
    )
}

# install_cupyrec EXTRAS: editable, with the extras named ("" for none).
install_cupyrec() {
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${1:+[$1]}"
}

# enter_environment EXTRAS: enter .venv with cupyrec and these extras in it.
enter_environment() {
    enter_venv && install_cupyrec "$1"
}

# As enter_environment, with CuPy where a driver is found and CuPy can be had; it is not needed to train on the CPU.
enter_environment_with_cupy() {
    local extra
    enter_venv || return 1
    extra=$(cuda_extra)
    if [ -n "$extra" ]; then
        if install_cupyrec "$extra" 2>/dev/null; then
            return
        fi
        echo "CuPy could not be installed (why: .venv/bin/pip install -e '.[$extra]'); going on without it, on the CPU" >&2
    fi
    install_cupyrec ""
}

# Print the CUDA extra that fits the driver; nothing where there is no NVIDIA driver.
# Its table says "CUDA Version", from driver 610 on "CUDA UMD Version".
cuda_extra() {
    local version
    version=$(nvidia-smi 2>/dev/null | sed -n 's/.*CUDA \(UMD \)\{0,1\}Version: *\([0-9]*\)\..*/\2/p' | head -n 1) || true
    case "$version" in
    "") ;;
    12) echo cuda12 ;;
    *) if [ "$version" -ge 13 ]; then echo cuda13; fi ;;
    esac
}
