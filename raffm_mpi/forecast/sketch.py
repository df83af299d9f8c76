"""A run as far as it is known before an example is prepared or a weight is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raffm_mpi import data
from raffm_mpi.config import KShotPartition, Settings
from raffm_mpi.elastic.cost import Lengths
from raffm_mpi.errors import UserMistake
from raffm_mpi.federation.experiment import Outline, choose_method, deal, fleet_of, lengths_of, look, outlined
from raffm_mpi.federation.prices import Prices
from raffm_mpi.tasks import task_of


@dataclass(frozen=True)
class Sketch:
    """The outline of a run, the rows of its splits, the bytes of its prepared data, and what was assumed."""

    outline: Outline
    num_rows: Mapping[str, int]  # by role: train, validation, test
    data_bytes: int | None  # None: not prepared
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Shares:
    partition: data.Partition
    lengths: Lengths
    num_rows: dict[str, int]
    data_bytes: int | None = None
    assumed: tuple[str, ...] = ()


def sketch(settings: Settings) -> Sketch:
    """The run that the settings describe, on torch's meta device; raises UserMistake as :func:`experiment.look`.

    The clients' shares and the lengths of texts are exact where the data set is prepared already. Otherwise equal
    shares and texts of full length are assumed.
    """
    looked = look(settings)
    layout = outlined(settings, looked.config, looked.info)
    folder = data.prepared(looked.info, task_of(looked.info.task), settings.data, looked.inputs, settings.seed)
    shares = _prepared(settings, looked.info, folder) if folder else _assumed(settings, looked.info)
    prices, fleet = Prices(layout, shares.lengths, settings.training), fleet_of(settings, shares.partition)
    method = choose_method(settings, layout, prices, fleet, shares.partition)
    outline = Outline(settings, looked.info, shares.partition, layout, method, prices, fleet)
    return Sketch(outline, shares.num_rows, shares.data_bytes, shares.assumed)


def _prepared(settings: Settings, info: data.DataInfo, folder: Path) -> _Shares:
    examples = data.open_data(folder, task_of(info.task))
    splits = {"train": examples.train, "validation": examples.validation, "test": examples.test}
    num_rows = {role: len(split) for role, split in splits.items() if split is not None}
    # A folder with a held-out split holds numbers of examples; the examples are in the folder above.
    files = [path for place in (folder, folder.parent) for path in place.glob("*.npy")]
    num_bytes = sum(path.stat().st_size for path in files)
    return _Shares(deal(settings, info, examples), lengths_of(examples.train), num_rows, num_bytes)


def _assumed(settings: Settings, info: data.DataInfo) -> _Shares:
    dealt, num_clients = settings.data.partition, settings.federation.num_clients
    if num_clients is None:
        raise UserMistake(
            "federation.num_clients is missing: how many clients by_column makes is known when the data set has been "
            "prepared, which raffm-mpi calibrate does"
        )
    num_rows = {split.role: split.num_examples for split in info.splits}
    if not info.has_split("validation") and settings.data.validation_fraction:
        num_rows["validation"] = round(num_rows["train"] * settings.data.validation_fraction)
        num_rows["train"] -= num_rows["validation"]
    lengths = task_of(info.task).full_lengths(info.columns, settings.data)
    total = num_clients * dealt.shots * info.num_classes if isinstance(dealt, KShotPartition) else num_rows["train"]
    tokens = f" of {settings.data.max_length} tokens" if lengths else ""
    what = f"the data set is not prepared: {total / num_clients:,.1f} examples{tokens} for every client are assumed"
    return _Shares(_equal_shares(total, num_clients), lengths, num_rows, assumed=(what,))


def _equal_shares(num_examples: int, num_clients: int) -> data.Partition:
    """Shares whose sizes differ by one at most; which examples they hold is left open."""
    offsets = np.arange(num_clients + 1) * num_examples // num_clients
    return data.Partition(np.broadcast_to(np.int64(0), (num_examples,)), offsets)
