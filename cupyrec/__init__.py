"""cupyrec trains recommendation models (DLRM) whose embedding tables may be larger than GPU memory.

The names below are imported when they are first used: `import cupyrec` loads neither CuPy nor Numba nor pyarrow.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULE_OF = {
    "Adagrad": "cupyrec.optim.adagrad",
    "Batch": "cupyrec.batch",
    "BatchList": "cupyrec.datasets.source",
    "CriteoFiles": "cupyrec.datasets.criteo",
    "CupyrecError": "cupyrec.errors",
    "DataError": "cupyrec.errors",
    "DlrmConfig": "cupyrec.config",
    "PrepareOptions": "cupyrec.datasets.preparing.prepare_options",
    "PreparedData": "cupyrec.datasets.prepared.prepared_data",
    "RowwiseAdagrad": "cupyrec.optim.rowwise_adagrad",
    "RunConfig": "cupyrec.run_config",
    "SampleEncoder": "cupyrec.datasets.preparing.sample_encoder",
    "Sgd": "cupyrec.optim.sgd",
    "Source": "cupyrec.datasets.source",
    "SystemConfig": "cupyrec.config",
    "TraceFile": "cupyrec.pipeline.trace_file",
    "Trainer": "cupyrec.training.trainer",
    "WarmupPolynomialDecay": "cupyrec.optim.schedule",
    "load_model": "cupyrec.training.trained_model",
    "prepare": "cupyrec.datasets.preparing.job",
}

# For models of one's own, and to catch an error of one kind.
_MODULES = ("errors", "functions", "optim")

__all__ = ["__version__", *sorted((*_MODULE_OF, *_MODULES))]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"cupyrec.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'cupyrec' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
