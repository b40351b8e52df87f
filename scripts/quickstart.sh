#!/usr/bin/env bash
# From a fresh clone to a trained, evaluated model: makes .venv, installs cupyrec, trains on the sample in data/ with a
# scratchpad far smaller than the tables, and shows that training with all rows in place gives the same weights.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh

echo "Installing cupyrec into .venv (a few minutes the first time) ..."
enter_environment_with_cupy
cupyrec train data/sample.tsv.gz --config data/sample.toml --system scratchpipe --scratchpad 2% --overwrite --output runs/sample
echo
best=$(awk -F '[:,]' '/"auc"/ { printf "%.4f", $2 }' data/sample.json)
echo "The best possible model scores AUC $best on the sample (data/README.md)."
echo
echo "The same training with every row in place (--system resident), to compare the weights ..."
cupyrec train data/sample.tsv.gz --config data/sample.toml --system resident --overwrite --output runs/sample-resident >/dev/null
if ! cmp runs/sample/model.safetensors runs/sample-resident/model.safetensors; then
    echo "The weights differ, which they must never do: please report it." >&2
    exit 1
fi
echo "The weights are the same, bit for bit, though only 2% of the rows were in the scratchpad at a time."
echo "Next: README.md, and your own files."
