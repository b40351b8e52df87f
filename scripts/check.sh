#!/usr/bin/env bash
# All checks, as CI runs them: formatter, linter, types, import layers, tests. Installs what it needs into .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh

enter_environment test
# Numba keeps compiled kernels by file, and would miss a change in a file that a kernel only calls.
NUMBA_CACHE_DIR=$(mktemp -d)
export NUMBA_CACHE_DIR
trap 'rm -rf "$NUMBA_CACHE_DIR"' EXIT
ruff format --check .
ruff check .
mypy
lint-imports
# -p no:cacheprovider: a check leaves nothing behind that the next one would find.
python -m pytest -p no:cacheprovider "$@"
