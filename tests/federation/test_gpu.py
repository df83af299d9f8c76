"""What a group on a GPU does otherwise: its memory, and how that travels."""

from __future__ import annotations

import pytest
import torch
import yaml

from raffm_mpi.config import ComputeSettings, Settings
from raffm_mpi.elastic.labels import Layout, parse
from raffm_mpi.elastic.packing import allocate, moved
from raffm_mpi.errors import UserMistake
from raffm_mpi.exchange import probe
from raffm_mpi.federation import build
from raffm_mpi.federation.serve import shard_evaluation
from raffm_mpi.learning.training import Processor
from support.final_hashes import hashes_on

LAYOUT = Layout({"w": parse("a b")}, {"w": (3, 5)}, {"a": 3, "b": 5})
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")


class Ranks:
    """One rank of two, as it tells of itself."""

    host, device_index, size = "n1", 0, 2

    def __init__(self, rank):
        self.rank = rank


def test_what_travels_to_a_gpu_lies_in_pinned_memory(monkeypatch):
    asked = []

    def zeros(*size, pin_memory, **options):
        asked.append(pin_memory)
        return real(*size, **options)

    real = torch.zeros
    monkeypatch.setattr(torch, "zeros", zeros)
    allocate(LAYOUT)
    allocate(LAYOUT, pinned=True)
    assert asked == [False, True]


def test_a_move_keeps_every_entry_and_copies_nothing_that_is_there_already():
    packed = allocate(LAYOUT)
    packed.buffer.copy_(torch.arange(len(packed.buffer)))
    assert moved(LAYOUT, packed, "cpu") is packed
    other = moved(LAYOUT, packed, "meta")
    assert other.tensors["w"].shape == (3, 5)
    assert other.buffer.device.type == "meta"


@pytest.mark.parametrize("answer", ["it ended with signal 11", "wrong"])
def test_gpu_memory_is_handed_to_mpi_only_where_a_transfer_showed_that_it_may(monkeypatch, answer):
    settings = ComputeSettings(gpu_aware_mpi=True)
    with pytest.raises(UserMistake, match=r"compute.gpu_aware_mpi: rank 1 on n1 computes on its CPU"):
        build._select_processor(settings, Ranks(1))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(build, "echo", lambda device: answer)
    with pytest.raises(UserMistake, match=rf"rank 1 on n1: a transfer of its GPU's memory failed \({answer}\)"):
        build._select_processor(settings, Ranks(1))
    assert build._select_processor(settings, Ranks(0)).is_gpu  # the server's tensors are in host memory
    monkeypatch.setattr(build, "echo", lambda device: "right")
    assert build._select_processor(settings, Ranks(1)) == Processor(torch.device("cuda:0"))


@pytest.mark.parametrize(
    ("devices", "groups_evaluate"),
    [
        (["cuda:1", "cuda:0"], False),
        (["cuda:0", "cuda:0", "cuda:1"], True),
        (["cpu", "cuda:0", "cuda:1"], True),
        (["cpu", "cpu"], False),
    ],
)
def test_the_server_evaluates_where_it_has_a_device_of_its_own_that_is_no_slower(devices, groups_evaluate):
    settings = Settings.model_validate(
        {"output": "x", "model": {"family": "vit"}, "federation": {"num_clients": 2}, "compute": {"device": "auto"}}
    )
    ranks = [["n1", device, str(core)] for core, device in enumerate(devices)]
    assert shard_evaluation(settings, ranks) == groups_evaluate


@needs_gpu
def test_neither_the_servers_device_nor_the_way_of_the_tensors_shows_in_the_bits(mpirun, federations, tmp_path):
    variants = {"shared": {}, "server-cpu": {"server_device": "cpu"}}
    if probe.echo("cuda:0") == probe.RIGHT:
        variants["gpu-memory"] = {"gpu_aware_mpi": True}
    configs = []
    for name, compute in variants.items():
        settings = yaml.safe_load((federations / "vit.yaml").read_text())
        configs.append(tmp_path / f"{name}.yaml")
        configs[-1].write_text(yaml.safe_dump({**settings, "compute": {"device": "cuda", **compute}}))
    assert len(set(hashes_on(mpirun, 3, tmp_path, configs).values())) == 1
