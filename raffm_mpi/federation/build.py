"""Every rank's experiment, built together: rank 0 prepares the examples, then each node finds them, then all build."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter

from raffm_mpi import data
from raffm_mpi.config import ComputeSettings, Settings
from raffm_mpi.elastic.adapters import whole_layout
from raffm_mpi.errors import UserMistake
from raffm_mpi.exchange.probe import RIGHT, echo
from raffm_mpi.exchange.ranks import Ranks
from raffm_mpi.federation.experiment import Experiment, Look, choose_method, deal, fleet_of, lengths_of
from raffm_mpi.federation.frozen import check_alike, put_in_order
from raffm_mpi.federation.prices import Prices
from raffm_mpi.learning.model import inputs_of, load_config, load_model, sha256
from raffm_mpi.learning.training import Processor
from raffm_mpi.methods import prepare_model
from raffm_mpi.tasks import task_of


@dataclass(frozen=True)
class Prepared:
    """The examples as rank 0 has prepared them: the others need not ask where they came from."""

    info: data.DataInfo
    folder: Path

    def to_json(self) -> str:
        """For :meth:`from_json`."""
        return TypeAdapter(Prepared).dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str) -> Prepared:
        """The same on another rank."""
        return TypeAdapter(Prepared).validate_json(text)


def build(settings: Settings, ranks: Ranks, looked: Look | None) -> Experiment:
    """Build a run on every rank, after rank 0 has looked; one rank of each node prepares what the others find.

    ``looked`` is what :func:`experiment.look` found, on rank 0, and None on the others. Raises SharedMistake.
    """
    processor = ranks.together(partial(_select_processor, settings.compute, ranks))
    found = ranks.together(partial(_prepare, settings, looked) if looked else import_libraries)
    prepared = Prepared.from_json(ranks.broadcast_text(found.to_json() if found else ""))
    # One rank of each node, then all: the later ones find a shared or the node's own cache filled.
    folder = prepared.folder
    for is_my_turn in (ranks.node_rank == 0, True):
        folder = ranks.together(partial(_find, settings, prepared) if is_my_turn else import_libraries) or folder
    experiment = ranks.together(partial(_build, settings, processor, prepared.info, folder))
    if experiment.layout.frozen:
        check_alike(sha256(experiment.elastic.fixed), ranks)
    return experiment


def _select_processor(settings: ComputeSettings, ranks: Ranks) -> Processor:
    """This rank's processor; UserMistake as :meth:`Processor.select`, and where MPI cannot take its GPU memory."""
    only_serves = ranks.rank == 0 and ranks.size > 1
    processor = Processor.select(settings, ranks.device_index, only_serves=only_serves)
    if settings.gpu_aware_mpi and not only_serves:
        place = f"compute.gpu_aware_mpi: rank {ranks.rank} on {ranks.host}"
        if not processor.is_gpu:
            raise UserMistake(f"{place} computes on its CPU; allowed there is false")
        answer = echo(str(processor.device)) if ranks.size > 1 else RIGHT
        if answer != RIGHT:
            raise UserMistake(f"{place}: a transfer of its GPU's memory failed ({answer}); allowed there is false")
    return processor


def import_libraries() -> None:
    """Import what comes next, while other ranks have their turn."""
    importlib.import_module("transformers.modeling_utils")


def _prepare(settings: Settings, looked: Look) -> Prepared:
    """Rank 0's part: fill the cache of prepared examples where it is empty."""
    task = task_of(looked.info.task)
    return Prepared(looked.info, data.prepare(looked.info, task, settings.data, looked.inputs, settings.seed))


def _find(settings: Settings, prepared: Prepared) -> Path:
    """This node's cache, filled; where it is rank 0's the libraries that read data sets stay out of memory."""
    if prepared.folder.is_dir():
        return prepared.folder
    inputs = inputs_of(settings.model, settings.data, load_config(settings.model, prepared.info), prepared.info)
    return data.prepare(prepared.info, task_of(prepared.info.task), settings.data, inputs, settings.seed)


def _build(settings: Settings, processor: Processor, info: data.DataInfo, folder: Path) -> Experiment:
    examples, config = data.open_data(folder, task_of(info.task)), load_config(settings.model, info)
    partition = deal(settings, info, examples)
    model = load_model(settings.model, config, info, settings.seed, examples.pad_token_id)
    model = prepare_model(settings.method, model)
    layout = whole_layout(model)
    prices, fleet = Prices(layout, lengths_of(examples.train), settings.training), fleet_of(settings, partition)
    method = choose_method(settings, layout, prices, fleet, partition)
    method.begin({name: parameter.detach() for name, parameter in model.named_parameters()})
    order = put_in_order(model, layout, method) if layout.frozen else {}
    return Experiment(settings, info, partition, layout, method, prices, fleet, examples, model, processor, order)
