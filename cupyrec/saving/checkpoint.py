"""A checkpoint on disk, and how it is read: a folder with all that a run needs to go on with the same bits.

    tables-00001.safetensors ...   `embedding.T.weight` (rows, D) and `embedding.T.state` (rows, S)
    patch.safetensors              where training went on while the tables were written: `patch.rows` (n,) int64, global
                                   rows, and their `patch.weight` (n, D) and `patch.state` (n, S), which count
    dense.safetensors              the dense parameters by their names in a saved model, and `dense.state`
    checkpoint.json                all else: the checksum of its own text, then those of the other files

It is made under another name and renamed when all of it is on the disk. There is no pickle in it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cupyrec.config import DlrmConfig
from cupyrec.errors import ModelError
from cupyrec.saving.checkpoint_folder import newest_checkpoint
from cupyrec.saving.model_state import ModelState
from cupyrec.saving.safetensors_file import ArraySource, PatchedSource, TensorSource, open_file
from cupyrec.saving.saved_model import DESCRIPTION_FILE
from cupyrec.saving.training_state import TrainingState

CHECKPOINT_FILE = "checkpoint.json"
DENSE_FILE, PATCH_FILE = "dense.safetensors", "patch.safetensors"
TABLES_FILE = "tables-{:05}.safetensors"
FORMAT, FORMAT_VERSION = "cupyrec-checkpoint", 1
# The first bytes of checkpoint.json; then the CRC-32 of all that follows the comma after it.
CHECKSUM_PREFIX = b'{"crc32": '

# Is given the name of a tensor, the index at which a block of its first axis begins, and the block.
TakeBlock = Callable[[str, int, np.ndarray], None]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose description was read; its tensors were not.

    content: the whole of checkpoint.json: `model`, `optimizer`, `steps`, `state`, `files`, and what the run adds.
    """

    folder: Path
    content: dict[str, Any]
    config: DlrmConfig
    state: TrainingState

    @property
    def steps(self) -> int:
        """Steps done by the model."""
        return self.content["steps"]

    def check(self) -> None:
        """Read all files and compare their checksums. Raises ModelError."""
        for name in self.content["files"]:
            self._read(name, lambda *_: None)

    def load(self, model: ModelState) -> None:
        """Set all of a model to what it was; checksums are compared on the way. Nothing may be training.

        Raises ModelError that names the file and says what is wrong; the model is spoilt then.
        """
        if self.config != model.model_config:
            raise ModelError(f"{self.folder}: made for another model: {self.config}, and not {model.model_config}")
        model.check_optimizer(self.content["optimizer"], self.folder)
        targets = model.tables()
        targets |= {name: np.zeros(shape, np.float32) for name, shape in model.dense_shapes().items()}
        missing = set(targets)

        def fill(name: str, start: int, block: np.ndarray) -> None:
            target = targets.get(name)
            stop = start + block.shape[0]
            if target is None or target.shape[1:] != block.shape[1:] or stop > target.shape[0]:
                raise ModelError(f"tensor {name!r} does not belong to this model")
            target[start:stop] = block
            if stop == target.shape[0]:
                missing.discard(name)

        for file in self.content["files"]:
            if file != PATCH_FILE:
                self._read(file, fill)
        if missing:
            raise ModelError(f"{self.folder}: tensor {min(missing)} is missing")
        if PATCH_FILE in self.content["files"]:
            self._patch(model)
        model.set_dense(targets, self.steps)

    def tensors(self) -> tuple[dict[str, TensorSource], dict[str, TensorSource]]:
        """All weights by the names of a saved model, and the optimizer's state: `embedding.T.state` and `dense.state`.

        They are read from the files when they are used; compares no checksums. Raises ModelError.
        """
        arrays: dict[str, np.ndarray] = {}
        for name in self.content["files"]:
            if name != PATCH_FILE:
                arrays |= open_file(self.folder / name)[0]
        tensors: dict[str, TensorSource] = {name: ArraySource(array) for name, array in arrays.items()}
        if PATCH_FILE in self.content["files"]:
            first_table = arrays.get("embedding.0.state")
            widths = {"weight": self.config.dimension}
            if first_table is not None and first_table.ndim == 2:
                widths["state"] = first_table.shape[1]
            patch, first_row = self._open_patch({f"patch.{part}": width for part, width in widths.items()}), 0
            for table, rows in enumerate(self.config.table_rows):
                for part, width in widths.items():
                    name = f"embedding.{table}.{part}"
                    # Another shape, or none, is told by who knows all shapes.
                    if name in arrays and arrays[name].shape == (rows, width):
                        tensors[name] = PatchedSource(
                            arrays[name], patch["patch.rows"], patch[f"patch.{part}"], first_row
                        )
                first_row += rows
        state = {name: tensors.pop(name) for name in list(tensors) if name.endswith(".state")}
        return tensors, state

    def _patch(self, model: ModelState) -> None:
        """Set the rows that changed while the tables were written."""
        records, D, S = model.table.records, model.dimension, model.state_width
        rows = self._open_patch({"patch.weight": D} | ({"patch.state": S} if S else {}))["patch.rows"]
        columns = {"patch.weight": slice(0, D), "patch.state": slice(D, D + S)}

        def set_rows(name: str, start: int, block: np.ndarray) -> None:
            if name in columns:
                records[rows[start : start + block.shape[0]], columns[name]] = block

        self._read(PATCH_FILE, set_rows)

    def _open_patch(self, widths: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Map the rows that changed, ascending, and what they have. widths: of the tensors that there must be.

        Raises ModelError.
        """
        path = self.folder / PATCH_FILE
        patch, _ = open_file(path)
        rows, R = patch.get("patch.rows"), sum(self.config.table_rows)
        if rows is None or rows.ndim != 1 or rows.dtype != np.int64 or not rows.size:
            raise ModelError(f"{path}: damaged: it does not name the rows that it holds")
        if rows[0] < 0 or rows[-1] >= R or not (np.diff(rows) > 0).all():
            raise ModelError(f"{path}: damaged: its rows are not those of this model")
        for name, width in widths.items():
            found = patch.get(name)
            if found is None or found.shape != (rows.shape[0], width) or found.dtype != np.float32:
                raise ModelError(f"{path}: damaged: {name} is not ({rows.shape[0]}, {width}) float32")
        return patch

    def _read(self, name: str, take: TakeBlock) -> None:
        """Hand out all tensors of a file, block by block, and compare its checksum. Raises ModelError."""
        path = self.folder / name
        tensors, _ = open_file(path)
        header_bytes = path.stat().st_size - sum(array.nbytes for array in tensors.values())
        with open(path, "rb") as file:
            checksum = zlib.crc32(file.read(header_bytes))
        for tensor, array in tensors.items():
            start = 0
            for block in ArraySource(array).blocks():
                checksum = zlib.crc32(block.reshape(-1).view(np.uint8).data, checksum)
                try:
                    take(tensor, start, block)
                except ModelError as error:
                    raise ModelError(f"{path}: {error}") from None
                start += block.shape[0]
        if checksum != self.content["files"][name]["crc32"]:
            stated = self.content["files"][name]["crc32"]
            raise ModelError(f"{path}: damaged: its checksum is {checksum:08x}, not {stated:08x}")


def read_checkpoint(folder: str | Path) -> Checkpoint:
    """Read and check the description of a checkpoint, and that its files are there and as long as they were.

    Raises ModelError that names the file and says what is wrong.
    """
    folder = Path(folder)
    path = folder / CHECKPOINT_FILE
    try:
        text = path.read_bytes()
        content = json.loads(text)
    except OSError as error:
        what_else = _what_else(folder)
        if what_else:
            raise ModelError(f"{folder}: {what_else}") from None
        raise ModelError(f"{path}: cannot be read ({error.strerror}): {folder} holds no checkpoint") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: damaged: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ModelError(f"{path}: not a cupyrec checkpoint")
    if content.get("version") != FORMAT_VERSION:
        raise ModelError(f"{path}: format version {content.get('version')!r}, but this cupyrec reads {FORMAT_VERSION}")
    checksum, _, checked = text.removeprefix(CHECKSUM_PREFIX).partition(b",")
    if checksum != str(zlib.crc32(checked)).encode():
        raise ModelError(f"{path}: damaged: its checksum is not that of its text")
    try:
        config = DlrmConfig(**content["model"])
        checkpoint = Checkpoint(folder, content, config, TrainingState.from_dict(content["state"]))
        sizes = {name: file["bytes"] for name, file in content["files"].items()}
        counts = [content["steps"], *sizes.values(), *(file["crc32"] for file in content["files"].values())]
        has_name = content["optimizer"].get("name") is not None
        if not _are_counts(counts) or not has_name or not _is_counted(checkpoint.state):
            raise ValueError("its steps, its optimizer or its state")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{path}: damaged: {error!r}") from None
    for name, size_then in sizes.items():
        if name != Path(name).name:
            raise ModelError(f"{path}: damaged: {name!r} is not the name of a file in its folder")
        try:
            size_bytes = (folder / name).stat().st_size
        except OSError as error:
            raise ModelError(f"{folder / name}: cannot be read ({error.strerror})") from None
        if size_bytes != size_then:
            raise ModelError(f"{folder / name}: damaged: it has {size_bytes} bytes, not {size_then}")
    return checkpoint


def _what_else(folder: Path) -> str:
    """What a folder that is no checkpoint holds, and what to do then; empty where nobody knows."""
    newest = newest_checkpoint(folder)
    if newest is not None:
        return f"holds no checkpoint itself; name one of its checkpoints, such as {newest}"
    if (folder / DESCRIPTION_FILE).exists():
        return "holds a model, which has no state of its optimizer; name a checkpoint"
    return ""


def description_text(content: dict[str, Any]) -> bytes:
    """The text of checkpoint.json. content: JSON-safe."""
    checked = json.dumps({"format": FORMAT, "version": FORMAT_VERSION, **content}, indent=1)[1:].encode() + b"\n"
    return CHECKSUM_PREFIX + str(zlib.crc32(checked)).encode() + b"," + checked


def _is_counted(state: TrainingState) -> bool:
    """Whether all that a state counts are numbers."""
    counts = [state.steps, state.samples, state.position.epoch, state.position.batches]
    counts += [evaluation.step for evaluation in state.evaluations]
    numbers = [state.seconds, state.data_wait_seconds, state.evaluation_seconds]
    if state.traffic is not None:
        numbers += asdict(state.traffic).values()
    metrics = [value for evaluation in state.evaluations for value in asdict(evaluation.metrics).values()]
    numbers += [value for value in metrics if value is not None]
    return _are_counts(counts) and all(type(number) in (int, float) for number in numbers)


def _are_counts(values: Iterable[Any]) -> bool:
    return all(type(value) is int and value >= 0 for value in values)
