#!/usr/bin/env bash
# From a fresh clone to a trained, evaluated model: makes .venv, installs cupyrec, trains on the sample in data/.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh

echo "Installing cupyrec into .venv (a few minutes the first time) ..."
enter_environment_with_cupy
cupyrec train data/sample.tsv.gz --config data/sample.toml --output runs/sample --overwrite
echo
echo "What the best possible model would score on the sample: data/sample.json. Next: README.md, your own files."
