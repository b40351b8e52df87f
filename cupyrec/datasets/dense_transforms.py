"""What becomes of the values of dense features: formulas that others use too, by name.

x is the value as it stands in the file. All are computed in float64 and rounded once, to float32; a value whose result
would not be finite is bad.

    dlrm      log(max(x, 0) + 1), missing 0. The DLRM reference, facebookresearch/dlrm: data_utils.py raises negative
              values to 0 and takes blanks as 0, data_loader_terabyte.py and dlrm_data_pytorch.py take log(x + 1).
    torchrec  log(x + 3), missing log(3), as if it were 0. pytorch/torchrec: tsv_to_npys in torchrec/datasets/criteo.py,
              and likewise torchrec/datasets/scripts/nvt/process_criteo_parquet.py. No step is left out.
    nvidia    log(x + 3), missing 0. NVIDIA/DeepLearningExamples: preproc_NVTabular.py and spark_data_utils.py in
              PyTorch/Recommendation/DLRM/preproc. Left out: that split_dataset.py rounds the results to float16.
    none      x, missing 0: for values that have been transformed before.

Not here: what needs all values before it can transform the first, and so a second pass. The Criteo example of
NVIDIA-Merlin/NVTabular (examples/scaling-criteo/02-ETL-with-NVTabular.ipynb) fills missing values with 0, clips at 0
from below and normalises by mean and standard deviation; without the last step the result would not be its own.
"""

from __future__ import annotations

import math

import numpy as np

from cupyrec.devices.kernel_cache import cached_njit

# By name: one line for people that says what is computed.
TRANSFORMS: dict[str, str] = {
    "dlrm": "log(max(x, 0) + 1), missing 0, as in the DLRM reference",
    "torchrec": "log(x + 3), missing log(3), as in torchrec",
    "nvidia": "log(x + 3), missing 0, as in NVIDIA's DLRM example",
    "none": "x as it is, missing 0",
}
_DLRM, _TORCHREC, _NVIDIA, _NONE = range(4)
_CODES = dict(zip(TRANSFORMS, range(4), strict=True))

# Most values are small counts: their results come from a table that fits the innermost cache.
SMALL_VALUES = 1024


@cached_njit()
def _transformed(code, value):
    """The result for one float64 value, as float32; NaN or infinite when there is none."""
    if code == _NONE:
        return np.float32(value)
    if code == _DLRM:
        # Not max(), which may hide a NaN.
        return np.float32(math.log((0.0 if value < 0.0 else value) + 1.0))
    if value > -3.0:
        return np.float32(math.log(value + 3.0))
    return np.float32(np.nan)


@cached_njit()
def _transform(code, small_results, missing_result, values, missing, bad_columns, column, dense):
    """Transform a column; see transform_column. small_results: (SMALL_VALUES,) float32, of the values from 0 on."""
    bad = 0
    for row in range(values.shape[0]):
        value = values[row]
        if missing[row]:
            dense[row] = missing_result
        elif 0 <= value < SMALL_VALUES and value == np.int64(value):
            dense[row] = small_results[np.int64(value)]
        else:
            result = _transformed(code, np.float64(value))
            dense[row] = result
            if not math.isfinite(result):
                bad += 1
                if bad_columns[row] == 0 or bad_columns[row] > column:
                    bad_columns[row] = column
    return bad


@cached_njit()
def _small_results(code):
    results = np.empty(SMALL_VALUES, dtype=np.float32)
    for value in range(SMALL_VALUES):
        results[value] = _transformed(code, np.float64(value))
    return results


_TABLES: dict[int, np.ndarray] = {}


def transform_column(
    name: str, values: np.ndarray, missing: np.ndarray, bad_columns: np.ndarray, column: int, dense: np.ndarray
) -> int:
    """Transform the n values of a dense feature. Returns how many have no finite result.

    name:        of TRANSFORMS.
    values:      (n,) int64 or float64.
    missing:     (n,) bool, where there is no value.
    bad_columns: (n,) uint8, 0 or a column: where there is no finite result `column` is written over 0 and over what
                 is larger. Modified.
    dense:       (n,) float32, of any stride. Modified.
    """
    code = _CODES[name]
    if code not in _TABLES:
        _TABLES[code] = _small_results(code)
    table = _TABLES[code]
    missing_result = table[0] if code == _TORCHREC else np.float32(0)
    return _transform(code, table, missing_result, values, missing, bad_columns, column, dense)


def domain(name: str) -> str:
    """Which numbers have a finite result, for messages."""
    if _CODES[name] in (_TORCHREC, _NVIDIA):
        return f"greater than -3 for --dense-transform {name} (none takes any)"
    return f"that is finite as float32 for --dense-transform {name}"
