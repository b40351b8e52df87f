#!/usr/bin/env bash
# Checks on a machine with a CUDA GPU; nothing is installed: the machine's python3 and its packages are used.
#
#   scripts/gpu_check.sh tests    [FOLDER] [options of gpu_tests.py and pytest]     the tests marked gpu
#   scripts/gpu_check.sh sanitize [FOLDER] [options of gpu_sanitize.py]             kernels under compute-sanitizer
#   scripts/gpu_check.sh bench    [FOLDER] [options of bench_gpu.py]                bench_gpu.py
#
# FOLDER: where results are written, as they come; gpu_results when not given. PYTHON: another interpreter.
# CUPYREC_LIMIT_S: seconds after which a part is stopped; 480 when not set.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
part=${1:-}
folder=gpu_results
if [ $# -ge 2 ] && [ "${2#-}" = "$2" ]; then
    folder=$2
    shift 2
else
    shift $(($# > 0))
fi
limit_s=${CUPYREC_LIMIT_S:-480}
# Results are there some seconds before the part is stopped from outside.
inner_s=$((limit_s > 60 ? limit_s - 15 : limit_s))
python=${PYTHON:-python3}
export PYTHONPATH="$(dirname "$here")${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
mkdir -p "$folder"
case $part in
    tests) set -- gpu_tests.py --output "$folder/gpu_tests.jsonl" "$@" ;;
    sanitize) set -- gpu_sanitize.py --output "$folder/gpu_sanitize.json" --seconds "$inner_s" "$@" ;;
    bench) set -- bench_gpu.py --folder "$folder" --seconds "$inner_s" "$@" ;;
    *)
        sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
esac
script=$1
shift
# INT first: pytest then still writes its summary.
exec timeout --signal=INT --kill-after=10 "$limit_s" "$python" "$here/$script" "$@"
