#!/usr/bin/env bash
# All checks, as CI runs them: formatter, linter, types, import layers, tests. Installs what it needs into .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh

enter_environment test
ruff format --check .
ruff check .
mypy
lint-imports
# -p no:cacheprovider: a check leaves nothing behind that the next one would find.
python -m pytest -p no:cacheprovider "$@"
