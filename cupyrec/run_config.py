"""Every option of a run, as plain validated data: one source for the command line and the TOML file."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cupyrec.argument_kinds import check_kind
from cupyrec.config import (
    DEFAULT_BOTTOM_LAYERS,
    DEFAULT_SCRATCHPAD,
    DEVICES,
    EXCHANGES,
    HOST_MEMORIES,
    LEAST_EPS,
    LEAST_LOOKAHEAD,
    PRECISIONS,
    REPLACEMENTS,
    SYSTEMS,
    DlrmConfig,
    SystemConfig,
)
from cupyrec.errors import ConfigError
from cupyrec.option_values import (
    about_unknown,
    choice,
    flag,
    hash_rows,
    option_name,
    real_number,
    text,
    texts,
    whole_number,
    widths,
)
from cupyrec.scratchpad_size import scratchpad_size


def option(default: Any, convert: Callable[[Any], Any], help_text: str, metavar: str | None = None) -> Any:
    """A field of RunConfig: how its value is read, and what `--help` says of it."""
    return field(default=default, metadata={"convert": convert, "help": help_text, "metavar": metavar})


def one_of(names: Sequence[str], default: str, help_text: str) -> Any:
    """A field of RunConfig whose value is one of a few names."""
    return option(default, choice(*names), help_text, "|".join(names))


@dataclass(frozen=True)
class RunConfig:
    """Every option of `cupyrec train`; the command line and the TOML file use the names with hyphens.

    Make one with `RunConfig.from_values`, which converts and checks. None means: not set.
    """

    paths: tuple[str, ...] = option(
        (), texts, "Prepared data or a split of them, or Criteo files, globs or folders, to train on."
    )
    valid: tuple[str, ...] = option(
        (),
        texts,
        "A split or files to validate on, or a share of the tail of the training data, such as 0.1.",
        "SHARE|PATH",
    )
    output: str | None = option(None, text, "Folder for the trained model, its metrics and its configuration.", "DIR")
    overwrite: bool = option(
        False, flag, "Replace what an earlier run left in the output folder, and existing files of bad rows and traces."
    )
    hash_rows: tuple[int, ...] = option(
        (100_000,), hash_rows, "Rows of each table, one number or 26; a category's row is its hex modulo this.", "ROWS"
    )
    on_bad_row: str = one_of(
        ("error", "skip"), "error", "Stop at a bad row, or count it, write it to a file and go on."
    )
    bad_rows: str | None = option(
        None, text, "File for the bad rows that are skipped; bad_rows.tsv in the output folder when not given.", "FILE"
    )
    batch_size: int = option(512, whole_number(1), "Samples in a mini-batch.", "SAMPLES")
    epochs: int = option(1, whole_number(1), "Passes over the training data.", "N")
    max_steps: int | None = option(None, whole_number(1), "Stop after this many steps.", "STEPS")
    init_from: str | None = option(
        None,
        text,
        "Begin with the weights of this model or checkpoint, and with its shape; the optimizer and the steps begin "
        "anew.",
        "MODEL",
    )
    init_state: bool = option(
        False,
        flag,
        "Begin with what the optimizer of that checkpoint remembers, too; the steps begin anew all the same.",
    )
    dimension: int = option(16, whole_number(1), "Embedding dimension.", "D")
    bottom_mlp: tuple[int, ...] | None = option(
        None,
        widths,
        "Widths of the bottom MLP's layers; the last is the dimension.  [default: 512-256-64 and the dimension]",
        "WIDTHS",
    )
    top_mlp: tuple[int, ...] = option((512, 256, 1), widths, "Widths of the top MLP's layers; the last is 1.", "WIDTHS")
    pooling: str = one_of(("sum", "mean"), "sum", "How the rows of a bag become one vector.")
    self_interaction: bool = option(False, flag, "Let the dot interaction take each vector with itself too.")
    optimizer: str = one_of(("sgd", "adagrad", "rowwise-adagrad"), "rowwise-adagrad", "For embeddings and MLPs alike.")
    learning_rate: float = option(0.02, real_number(above=0), "Learning rate after the warm-up.", "RATE")
    eps: float = option(1e-10, real_number(least=LEAST_EPS), "Added to Adagrad's root, outside of it.", "EPS")
    warmup_steps: int = option(
        100, whole_number(0), "Steps over which the learning rate rises to its full value.", "STEPS"
    )
    decay_start_step: int = option(
        0, whole_number(0), "Step at which the learning rate begins to fall; 0: after the warm-up.", "STEP"
    )
    decay_steps: int = option(0, whole_number(0), "Steps over which it falls; 0 keeps it constant.", "STEPS")
    decay_power: float = option(2.0, real_number(above=0), "Power of the polynomial decay.", "POWER")
    end_learning_rate: float = option(0.0, real_number(least=0), "Learning rate at the end of the decay.", "RATE")
    shuffle: bool = option(
        False, flag, "Train prepared data in another order in each epoch, always the same for a seed."
    )
    shuffle_window: int = option(
        2**18,
        whole_number(1),
        "Samples that are shuffled among each other, of blocks from all over the data.",
        "SAMPLES",
    )
    eval_every: int = option(
        0, whole_number(0), "Validate every so many steps as well as at the end; 0 does not.", "STEPS"
    )
    save: str = one_of(
        ("last", "best"), "last", "Save the weights of the last step, or those of the evaluation with the best AUC."
    )
    patience: int = option(
        0, whole_number(0), "Stop after so many evaluations without a better AUC than before; 0 does not.", "N"
    )
    log_every: int = option(100, whole_number(1), "Steps between the lines of metrics.jsonl.", "STEPS")
    checkpoint_every: int = option(
        0,
        whole_number(0),
        "Write a checkpoint to the output folder every so many steps, at the end and when stopped; 0 writes none.",
        "STEPS",
    )
    keep: int = option(2, whole_number(1), "Checkpoints to keep; older ones are removed.", "N")
    resume: bool = option(
        False, flag, "Go on from the last checkpoint in the output folder, or begin where there is none."
    )
    resume_step: int | None = option(None, whole_number(1), "Go on from the checkpoint of this step instead.", "STEP")
    system: str = one_of(SYSTEMS, "auto", "Where embeddings live and are trained.")
    scratchpad: str = option(
        DEFAULT_SCRATCHPAD,
        scratchpad_size,
        "Device memory for rows: bytes (8GB), a number of rows, or a share of all rows (10%); for static, serial and "
        "scratchpipe.",
        "SIZE",
    )
    lookahead: int | None = option(
        None,
        whole_number(LEAST_LOOKAHEAD),
        "Mini-batches that serial and scratchpipe know ahead; 4 times the scratchpad's rows over those of a batch when "
        "not given, or what memory allows.",
        "K",
    )
    replacement: str = one_of(REPLACEMENTS, "lookahead", "Which row leaves the scratchpad of serial and scratchpipe.")
    row_counts: str | None = option(
        None,
        text,
        "How often each row is used, as `cupyrec advise --row-counts` writes it; for static, serial and scratchpipe.",
        "FILE",
    )
    trace: str | None = option(
        None,
        text,
        "Write what each stage did when, of the first 10,000 mini-batches, for chrome://tracing or ui.perfetto.dev.",
        "FILE",
    )
    exchange: str = one_of(
        EXCHANGES,
        "auto",
        "How rows move between host and GPU, for serial and scratchpipe. staged: gathered by the host and copied; "
        "direct: read and written by the GPU; direct-in, direct-out: one direction direct, the other staged; mixed: of "
        "the rows that come in a share staged and the others direct, those that go out staged; auto tries all.",
    )
    host_memory: str = one_of(
        HOST_MEMORIES,
        "auto",
        "Where all rows are, for serial and scratchpipe on a GPU: in ordinary memory, or in memory managed by CUDA's "
        "driver, which the GPU may read faster; auto tries both where all rows would fit in the GPU's free memory.",
    )
    device: str = one_of(DEVICES, "auto", "What computes; auto takes the GPU where there is one.")
    precision: str = one_of(
        PRECISIONS,
        "fp32",
        "Of the factors in matrix products on a GPU, at least; bf16 lets cuBLAS choose between it and tf32. All else "
        "is fp32.",
    )
    cuda_graphs: bool = option(
        True,
        flag,
        "On a GPU, capture what is the same in each step in CUDA graphs; without them every kernel is launched by "
        "itself, to look for faults.",
    )
    threads: int | None = option(None, whole_number(1), "CPU threads; every usable core when not given.", "N")
    seed: int = option(1, whole_number(0), "Seed of the initial weights and of the shuffling.", "SEED")

    @classmethod
    def from_values(cls, values: Mapping[str, Any], *, source: str = "") -> RunConfig:
        """Convert and check raw values, keyed by field name or by option name.

        source: where they come from, for messages. Raises ConfigError on an unknown name (with a known one that is
        near) and on a value that cannot be used.
        """
        check_kind(Mapping, "options by their names", values=values)
        check_kind(str, "a text", **{f"the name {name!r}": name for name in values})
        where = f"{source}: " if source else ""
        known = {each.name: each for each in fields(cls)}
        converted: dict[str, Any] = {}
        for name, value in values.items():
            key = name.replace("-", "_")
            if key not in known and isinstance(value, Mapping):
                raise ConfigError(f"{where}options stand in no section; take away the line [{name}]")
            if key not in known:
                raise ConfigError(f"{where}{about_unknown(name, known)}")
            if key in converted:
                raise ConfigError(f"{where}{option_name(key)} is there twice, also as {key}; take one of them away")
            try:
                converted[key] = known[key].metadata["convert"](value)
            except ValueError as error:
                raise ConfigError(f"{where}{option_name(key)} must be {error}, but is {value!r}") from None
        return cls(**converted)

    @property
    def resumes(self) -> bool:
        """Whether a run is to go on from a checkpoint."""
        return self.resume or self.resume_step is not None

    @property
    def bottom_layers(self) -> tuple[int, ...]:
        """Of the bottom MLP, given or not."""
        return self.bottom_mlp or (*DEFAULT_BOTTOM_LAYERS, self.dimension)

    @property
    def resume_option(self) -> str:
        """The option that says so, for messages."""
        return "--resume" if self.resume_step is None else "--resume-step"

    def to_toml(self) -> str:
        """The configuration as a TOML file that reads back to the same; options that are not set are left out."""
        lines = []
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None:
                # JSON's numbers, lists and booleans are TOML's too, and its strings but for escaped surrogates and
                # a bare DEL.
                shown = list(value) if isinstance(value, tuple) else value
                as_json = json.dumps(shown, ensure_ascii=False).replace("\x7f", "\\u007f")
                lines.append(f"{option_name(each.name)} = {as_json}\n")
        return "".join(lines)

    def system_config(self) -> SystemConfig:
        """The system that these options describe. Raises ConfigError."""
        return SystemConfig(
            self.system,
            self.scratchpad,
            self.lookahead,
            self.replacement,
            self.row_counts,
            self.exchange,
            self.host_memory,
        )

    def model_for(self, table_rows: tuple[int, ...], dense_features: int) -> DlrmConfig:
        """The model that these options describe, for data with these tables. Raises ConfigError."""
        return DlrmConfig(
            table_rows=table_rows,
            dense_features=dense_features,
            dimension=self.dimension,
            bottom=self.bottom_layers,
            top=self.top_mlp,
            pooling=self.pooling,
            self_interaction=self.self_interaction,
        )


def read_config_file(path: str | Path) -> dict[str, Any]:
    """The raw values of a TOML file. Raises ConfigError when it cannot be read or is no TOML."""
    try:
        return parse_toml(Path(path).read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def parse_toml(text: str) -> dict[str, Any]:
    """The raw values of a TOML text. Raises ValueError, and RecursionError on thousands of brackets."""
    return importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli").loads(text)
