#!/usr/bin/env bash
# From a fresh clone to a trained, evaluated model: makes .venv, installs cupyrec, trains on the sample in data/.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh

echo "Installing cupyrec into .venv (a few minutes the first time) ..."
enter_environment_with_cupy
cupyrec train data/sample.tsv.gz --config data/sample.toml --output runs/sample --overwrite
echo
best=$(awk -F '[:,]' '/"auc"/ { printf "%.4f", $2 }' data/sample.json)
echo "The best possible model scores AUC $best on the sample (data/README.md). Next: README.md, and your own files."
