"""The tables of a log, from which the writer, the reader and docs/log.md are made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

FORMAT = "raffm_mpi"
SCHEMA_VERSION = 2  # 2: devices of the clients, virtual time and energy
NO_DEVICE = -1  # where clients have none
GLOBAL_MODEL = 0  # the id of the full model among the sub-models: it always comes first
LOWER_IS_BETTER = ("perplexity", "mse")  # of the metrics; all others are fractions, or correlations up to 1
STATUSES = ("running", "finished", "failed", "interrupted")


@dataclass(frozen=True)
class Column:
    """One dataset of a table: ``members`` make it an enumeration, ``labels`` names the second axis of a 2-D one."""

    name: str
    dtype: str  # a numpy name; "S512" is UTF-8 text of at most 512 bytes
    unit: str
    description: str
    members: tuple[str, ...] = ()
    labels: str = ""

    @property
    def storage(self) -> np.dtype[Any]:
        """The column's HDF5 type, as h5py spells it."""
        if self.members:
            codes = {member: code for code, member in enumerate(self.members)}
            storage = h5py.enum_dtype(codes, self.dtype)
        else:
            storage = h5py.string_dtype("utf-8", int(self.dtype[1:])) if self.is_text else np.dtype(self.dtype)
        assert isinstance(storage, np.dtype)
        return storage

    @property
    def is_text(self) -> bool:
        """Whether the column holds text of a fixed number of bytes."""
        return self.dtype.startswith("S")


@dataclass(frozen=True)
class Table:
    """Columns of equal length; ``shown`` says when a reader sees a row.

    ``round``: with the commit of its round; ``commit``: with the next commit; ``once``: all rows come in one append.
    """

    name: str
    description: str
    shown: Literal["round", "commit", "once"]
    chunk_rows: int
    columns: tuple[Column, ...]

    def column(self, name: str) -> Column:
        """The column of that name."""
        return next(column for column in self.columns if column.name == name)


ROUND = Column("round", "int32", "1", "communication round, from 0")

ROUNDS = Table(
    "rounds",
    "one row a committed round",
    "round",
    64,
    (
        ROUND,
        Column("attempt", "int16", "1", "how often the round was repeated with another cohort, 0: never"),
        Column("num_clients", "int32", "clients", "cohort"),
        Column("num_trained", "int32", "clients", "clients whose update was aggregated"),
        Column("num_dropped", "int32", "clients", "clients of the cohort that gave no update, for whatever reason"),
        Column("num_recoveries", "int16", "recoveries", "times that the round went on after ranks were lost"),
        Column("num_examples", "int64", "examples", "examples of the clients that trained, each counted once"),
        Column("learning_rate", "float64", "1", "learning rate of local training"),
        Column("train_loss", "float64", "1", "clients' mean losses, weighted by examples"),
        Column("envelope_parameters", "int64", "parameters", "entries in the union of the cohort's selections"),
        Column("bytes_down", "int64", "bytes", "simulated: float32 parameters sent to the clients"),
        Column("bytes_up", "int64", "bytes", "simulated: float32 updates sent by the clients"),
        Column(
            "virtual_start_s", "float64", "s", "simulated: its beginning, from the run's; not a number without devices"
        ),
        Column("virtual_round_s", "float64", "s", "simulated: its duration on the clients' devices"),
        Column("energy_j", "float64", "J", "simulated: what its clients' devices took"),
        Column("exchange_bytes", "int64", "bytes", "moved by MPI: broadcast and reduce payload of one rank"),
        Column("predicted_s", "float32", "s", "makespan that the schedule expected"),
        Column("round_s", "float32", "s", "the whole round on rank 0"),
        Column("broadcast_s", "float32", "s", "packing and broadcasting the envelope"),
        Column("train_s", "float32", "s", "training on the slowest group"),
        Column("reduce_s", "float32", "s", "reducing the exact sums to rank 0"),
        Column("commit_s", "float32", "s", "server update, log and checkpoint on rank 0"),
    ),
)

CLIENT_STATUSES = {
    "trained": "its update was aggregated",
    "dropped": "it gave no update that could be used (events say why)",
    "unable": "its device cannot hold its sub-model, so it sat out",
    "gone": "it dropped out, or could no longer be reached",
    "late": "it was not ready at the deadline",
    "surplus": "more clients were asked than needed, and enough were ready before it",
}

CLIENTS = Table(
    "clients",
    "one row a client a round",
    "round",
    1024,
    (
        ROUND,
        Column("client", "int32", "1", "simulated client"),
        Column("group", "int16", "1", "client group that trained it; -1: none"),
        Column("submodel", "int32", "1", "its sub-model, a row of submodels"),
        Column("parameters", "int64", "parameters", "size of its sub-model"),
        Column("train_flops", "float64", "FLOP", "floating-point operations of its local training"),
        Column("num_examples", "int32", "examples", "its local examples: its weight in the mean"),
        Column("num_steps", "int32", "steps", "optimiser steps taken"),
        Column("micro_batches", "int16", "1", "parts that its batches were split into to fit into memory, 1: whole"),
        Column("first_loss", "float32", "1", "loss of its first step"),
        Column("last_loss", "float32", "1", "loss of its last step"),
        Column("mean_loss", "float32", "1", "mean loss of its steps"),
        Column("train_s", "float32", "s", "its optimiser steps"),
        Column("overhead_s", "float32", "s", "everything else: slicing, loading, rounding, adding"),
        Column("bytes_down", "int64", "bytes", "simulated: float32 parameters sent to it"),
        Column("bytes_up", "int64", "bytes", "simulated: float32 update sent by it"),
        Column("status", "int8", "", "what became of it", members=tuple(CLIENT_STATUSES)),
        Column("device", "int16", "1", "its device, a row of devices; -1: clients have none"),
        Column("virtual_download_s", "float64", "s", "simulated: downloading on its device"),
        Column("virtual_train_s", "float64", "s", "simulated: training on its device"),
        Column("virtual_upload_s", "float64", "s", "simulated: uploading from its device"),
        Column("virtual_wait_s", "float64", "s", "simulated: waiting for the end of the round"),
        Column("energy_j", "float64", "J", "simulated: what its device took, from the round's beginning to its end"),
    ),
)

SUBMODELS = Table(
    "submodels",
    "one row a distinct sub-model, in order of appearance",
    "commit",
    64,
    (
        Column("submodel", "int32", "1", "identifier of the sub-model"),
        Column("round", "int32", "1", "round in which it was first seen"),
        Column("parameters", "int64", "parameters", "entries that it holds"),
        Column("forward_flops", "float64", "FLOP", "floating-point operations of one forward pass of one example"),
        Column("bytes", "int64", "bytes", "its parameters in float32"),
        Column("memory_bytes", "int64", "bytes", "memory that training it is counted to need"),
        Column("sizes", "int32", "1", "kept size of each dimension", labels="dimensions"),
    ),
)

GROUPS = Table(
    "groups",
    "one row a client group a round",
    "round",
    256,
    (
        ROUND,
        Column("group", "int16", "1", "client group"),
        Column("rank", "int32", "1", "its MPI rank, a row of ranks; -1: only an earlier start had it"),
        Column("num_clients", "int32", "clients", "clients that it trained"),
        Column("predicted_s", "float32", "s", "training time that the schedule expected"),
        Column("actual_s", "float32", "s", "training time that it took"),
        Column("idle_s", "float32", "s", "time that it waited for the slowest group"),
    ),
)

PARTITION = Table(
    "partition",
    "one row a client of the population",
    "once",
    1024,
    (
        Column("client", "int32", "1", "simulated client"),
        Column("num_examples", "int32", "examples", "its local examples"),
        Column("device", "int16", "1", "its device, a row of devices; -1: clients have none"),
        Column("label_counts", "int32", "examples", "its local examples of each label", labels="label_names"),
    ),
)

DEVICES = Table(
    "devices",
    "one row a kind of device that clients have",
    "once",
    16,
    (
        Column("device", "int16", "1", "its number"),
        Column("name", "S64", "", "its name"),
        Column("num_clients", "int32", "clients", "clients of the population that have it"),
        Column("memory_bytes", "float64", "bytes", "memory that training may take"),
        Column("flops_per_s", "float64", "FLOP/s", "sustained in training"),
        Column("downlink_bytes_per_s", "float64", "bytes/s", "download"),
        Column("uplink_bytes_per_s", "float64", "bytes/s", "upload"),
        Column("compute_w", "float64", "W", "power when it trains"),
        Column("transfer_w", "float64", "W", "power when it downloads or uploads"),
        Column("idle_w", "float64", "W", "power when it waits for the end of a round"),
    ),
)

EVALUATION = Table(
    "evaluation",
    "one row an evaluation of a model on a split",
    "commit",
    64,
    (
        Column("round", "int32", "1", "round after which the model was taken; -1: before the first"),
        Column("submodel", "int32", "1", f"evaluated sub-model, a row of submodels; {GLOBAL_MODEL}: the full model"),
        Column("split", "int8", "", "split of the data set", members=("validation", "test", "train")),
        Column("num_examples", "int64", "examples", "examples evaluated"),
        Column("loss", "float64", "1", "mean loss"),
        Column("score", "float64", "1", "the main metric: the first of the root attribute metrics"),
        Column("seconds", "float32", "s", "time that it took"),
    ),
)

METRICS = Table(
    "metrics",
    "one row a metric of an evaluation",
    "commit",
    256,
    (
        *EVALUATION.columns[:3],
        Column("metric", "S32", "", "its name; fractions are 0 to 1, perplexity is per token"),
        Column("value", "float64", "1", "its value"),
    ),
)

PERSONAL = Table(
    "personal",
    "one row a model whose score was taken on each client's share of the test split",
    "commit",
    16,
    (
        *EVALUATION.columns[:2],
        Column("num_clients", "int32", "clients", "clients that have a share"),
        Column("mean", "float64", "1", "mean of their scores"),
        Column("worst_tenth", "float64", "1", "mean of the worst 10 % of them"),
        Column("best_tenth", "float64", "1", "mean of the best 10 % of them"),
    ),
)

CLIENT_SCORES = Table(
    "client_scores",
    "one row a client for each row of personal",
    "commit",
    1024,
    (
        *EVALUATION.columns[:2],
        Column("client", "int32", "1", "simulated client"),
        Column("num_examples", "int32", "examples", "its share of the test split; windows, for questions"),
        Column("loss", "float64", "1", "mean loss on its share"),
        Column("score", "float64", "1", "the main metric on its share"),
    ),
)

EVENT_KINDS = {
    "dropped": "a client gave no update",
    "warning": "what a person should know",
    "recovery": "ranks were lost and the round went on",
    "resumed": "the run went on from a checkpoint",
    "interrupted": "the run was told to stop",
    "repeated": "a round was repeated with another cohort",
    "retried": "a client was trained again after running out of memory",
}

EVENTS = Table(
    "events",
    "what else happened, in order",
    "commit",
    16,
    (
        ROUND,
        Column("client", "int32", "1", "simulated client; -1: none"),
        Column("rank", "int32", "1", "MPI rank; -1: none"),
        Column("kind", "int8", "", "what happened", members=tuple(EVENT_KINDS)),
        Column("message", "S512", "", "one sentence"),
    ),
)

CHECKPOINTS = Table(
    "checkpoints",
    "one row a checkpoint",
    "commit",
    64,
    (
        Column("round", "int32", "1", "the last committed round in it"),
        Column("model_sha256", "S64", "", "SHA-256 of the global model, as final_model_sha256"),
        Column("bytes", "int64", "bytes", "its size"),
        Column("write_s", "float32", "s", "time that writing it took"),
    ),
)

RANKS = Table(
    "ranks",
    "one row an MPI rank, as of the last start",
    "once",
    64,
    (
        Column("rank", "int32", "1", "MPI rank"),
        Column("host", "S128", "", "host name"),
        Column("device", "S64", "", "what it computes on"),
        Column("role", "S32", "", "server or client group"),
    ),
)

TABLES = {
    table.name: table
    for table in (
        ROUNDS,
        CLIENTS,
        SUBMODELS,
        GROUPS,
        PARTITION,
        DEVICES,
        EVALUATION,
        METRICS,
        PERSONAL,
        CLIENT_SCORES,
        EVENTS,
        CHECKPOINTS,
        RANKS,
    )
}

ATTRIBUTES = {
    "format": f"always {FORMAT}",
    "schema_version": f"version of this schema, {SCHEMA_VERSION}",
    "status": " or ".join(STATUSES) + "; a killed run stays running",
    "date": "start of the run, ISO 8601, UTC",
    "software": "always raffm_mpi",
    "software_version": "its version",
    "versions.*": "one attribute a library: versions.python, versions.torch, …",
    "commit": "git commit of the code",
    "hosts": "host names",
    "num_ranks": "number of MPI ranks",
    "command": "command line",
    "run_id": "identifier of the run, in its checkpoints too",
    "devices": "kinds of device that its ranks compute on",
    "devices_sha256": "fingerprint of the clients' devices and of when they can be reached, empty without",
    "data_sha256": "fingerprint of the prepared examples",
    "model_sha256": "fingerprint of the model before the first round: config and parameters",
    "config": "resolved settings, YAML",
    "task": "what the model learns, such as image_classification",
    "metrics": "the metrics of its evaluation, the main one first",
    "final_model_sha256": "SHA-256 of the global model when finished, empty before",
}


def log_file(path: str | Path) -> Path:
    """The log of a run: ``path`` if it is a file or named like one (``.h5``), otherwise ``run.h5`` in that folder."""
    path = Path(path)
    return path if path.is_file() or (path.suffix == ".h5" and not path.is_dir()) else path / "run.h5"


def describe() -> str:
    """The schema as the Markdown tables of docs/log.md."""
    lines = ["### Root attributes", "", "| attribute | what |", "|---|---|"]
    lines += [f"| `{name}` | {description} |" for name, description in ATTRIBUTES.items()]
    for table in TABLES.values():
        lines += ["", f"### `/{table.name}`: {table.description}", ""]
        lines += ["| column | type | unit | what |", "|---|---|---|---|"]
        lines += [f"| `{c.name}` | {_type_name(c)} | {c.unit} | {c.description} |" for c in table.columns]
        if table is EVENTS:
            lines += ["", "| kind | what happened |", "|---|---|"]
            lines += [f"| `{kind}` | {description} |" for kind, description in EVENT_KINDS.items()]
        if table is CLIENTS:
            lines += ["", "| status | what became of it |", "|---|---|"]
            lines += [f"| `{status}` | {description} |" for status, description in CLIENT_STATUSES.items()]
    return "\n".join(lines) + "\n"


def _type_name(column: Column) -> str:
    if column.members:
        return "enum: " + ", ".join(column.members)
    if column.is_text:
        return f"UTF-8, {column.dtype[1:]} bytes"
    return f"{column.dtype} [rows, {column.labels}]" if column.labels else column.dtype
