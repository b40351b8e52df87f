"""A trace of the stages as a file that chrome://tracing and ui.perfetto.dev show: a row a stage, a box a batch.

Format: Trace Event Format of the Chromium project, the JSON array form, complete events; times in microseconds.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import TextIO

from cupyrec.argument_kinds import check_paths
from cupyrec.config import check_at_least
from cupyrec.errors import OutputError

# A trace is looked at, not archived: a box takes about 110 bytes, and a viewer a while for millions of them.
MOST_BATCHES = 10_000
ROWS = ("Load", "Plan", "Collect", "Gather", "Exchange", "Insert", "Train", "Exchange back", "Update")


class TraceFile:
    """Writes boxes as they come, from any thread; an interrupted file can be looked at too.

    A file that cannot be written any more stops no training: the error is raised by `close`.
    """

    def __init__(self, path: str | Path, *, most_batches: int = MOST_BATCHES) -> None:
        """most_batches: of later ones nothing is written. A file there is replaced. Raises ConfigError, OutputError."""
        check_paths(path=path)
        check_at_least(1, most_batches=most_batches)
        self.path, self._most_batches = Path(path), most_batches
        self._lock = threading.Lock()
        self._began = time.perf_counter()
        self._rows: dict[str, int] = {}
        self._error: OSError | None = None
        self._file: TextIO | None = None
        try:
            self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115 - open for the whole run
            name = {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "cupyrec"}}
            self._file.write("[\n" + json.dumps(name))
            self._file.flush()
        except OSError as error:
            self._file = None
            raise OutputError(f"{path}: the trace cannot be written: {error.strerror}") from None

    def box(self, stage: str, batch: int, begun_s: float, ended_s: float) -> None:
        """A stage worked on a batch between two times of time.perf_counter."""
        if batch >= self._most_batches:
            return
        event = {
            "name": str(batch),
            "cat": stage,
            "ph": "X",
            "pid": 1,
            "ts": round((begun_s - self._began) * 1e6, 1),
            "dur": round((ended_s - begun_s) * 1e6, 1),
            "args": {"batch": batch},
        }
        with self._lock:
            if self._file is None or self._error is not None:
                return
            try:
                self._file.write(f",\n{json.dumps(event | {'tid': self._row(stage)})}")
            except OSError as error:
                self._error = error

    def close(self) -> None:
        """End the file. May be called twice. Raises OutputError when it could not be written whole."""
        with self._lock:
            file, self._file = self._file, None
            if file is None:
                return
            try:
                if self._error is None:
                    file.write("\n]\n")
                file.close()
            except OSError as error:
                self._error = self._error or error
            if self._error is not None:
                raise OutputError(f"{self.path}: the trace cannot be written: {self._error.strerror}")

    def _row(self, stage: str) -> int:
        """The number of a stage's row; its name is told with the first box. Raises OSError."""
        if stage not in self._rows:
            self._rows[stage] = ROWS.index(stage) if stage in ROWS else len(ROWS) + len(self._rows)
            for name, value in (
                ("thread_name", {"name": stage}),
                ("thread_sort_index", {"sort_index": self._rows[stage]}),
            ):
                event = {"name": name, "ph": "M", "pid": 1, "tid": self._rows[stage], "args": value}
                assert self._file is not None
                self._file.write(f",\n{json.dumps(event)}")
        return self._rows[stage]
