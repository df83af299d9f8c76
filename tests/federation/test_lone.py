"""The ranks without MPI: who gets which, and what a run says of them."""

from __future__ import annotations

import numpy as np
import pytest

from raffm_mpi.config import check_settings
from raffm_mpi.errors import UserMistake
from raffm_mpi.exchange import mpi
from raffm_mpi.exchange.join import join
from raffm_mpi.exchange.lone import LoneRank
from raffm_mpi.exchange.ranks import Left, SharedMistake
from raffm_mpi.federation.run import _check_output
from raffm_mpi.federation.serve import introduction

LAUNCHED = [
    {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
    {"PMI_SIZE": "4", "PMI_RANK": "2"},
    {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"},
    {"PMIX_NAMESPACE": "x", "PMIX_RANK": "0"},
]
ALONE = [{}, {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}]


def test_a_launcher_decides_whether_mpi_is_asked(monkeypatch):
    monkeypatch.setattr(mpi, "MPIRanks", lambda: "MPI")
    assert [join(environment) for environment in LAUNCHED] == ["MPI"] * len(LAUNCHED)
    assert all(isinstance(join(environment), LoneRank) for environment in ALONE)


def test_alone_every_operation_leaves_what_is_there():
    ranks = LoneRank("n1")
    sums, table = np.arange(3), np.ones(2, [("a", "f8")])
    ranks.broadcast(sums)
    ranks.reduce(sums)
    ranks.merge(table)
    assert sums.tolist() == [0, 1, 2] and table["a"].tolist() == [1.0, 1.0]
    assert ranks.describe("x") == ["x"] and ranks.broadcast_text("Größe") == "Größe"
    assert (ranks.rank, ranks.size, ranks.members, ranks.hosts, ranks.device_index) == (0, 1, [0], ["n1"], 0)
    ranks.presence.look()
    assert ranks.bytes_moved == 0 and not ranks.have_failed
    with pytest.raises(AssertionError):
        ranks.reduce(np.zeros(2, np.float32))


def test_a_mistake_of_a_step_is_one_of_all_ranks_and_a_fault_stays_what_it_is():
    def fail(error):
        raise error

    with pytest.raises(SharedMistake, match="seven is odd"):
        LoneRank().together(lambda: fail(UserMistake("seven is odd")))
    with pytest.raises(KeyError):
        LoneRank().together(lambda: fail(KeyError("seven")))


def test_of_processes_that_mpi_cannot_join_the_first_alone_speaks_and_fails(monkeypatch):
    monkeypatch.setattr(LoneRank, "speaks", property(lambda self: self.hosts == ["first"]))
    monkeypatch.setattr("raffm_mpi.exchange.presence.Presence.ignore_signals", lambda self: None)
    for host, status in (("first", 2), ("second", 0)):
        with pytest.raises(Left) as left:
            LoneRank(host).leave(2)
        assert left.value.code == status


class Several(LoneRank):
    """Some ranks on some hosts, as they tell of themselves."""

    def __init__(self, hosts: list[str], survives_failures: bool) -> None:
        super().__init__(hosts[0])
        self.hosts, self.members, self.survives_failures = hosts, list(range(len(hosts))), survives_failures


def test_the_first_line_says_what_the_run_is_and_how_it_goes_on():
    def settings(every):
        values = {"output": "x", "model": {"family": "vit"}, "federation": {"num_clients": 2}}
        return check_settings({**values, "reliability": {"checkpoint_every": every}}, "config")

    assert introduction(settings(1), LoneRank("n1")) == (
        "server and client group in one process on n1; checkpoints every round, so --resume continues an interrupted "
        "run"
    )
    plain = introduction(settings(5), Several(["n1"] * 3, False))
    assert plain.startswith("1 server and 2 client groups on n1; checkpoints every 5 rounds, so --resume continues")
    assert "mpirun --with-ft ulfm" in plain
    survivor = introduction(settings(None), Several(["n1", "n2"], True))
    assert survivor.startswith("1 server and 1 client group on 2 hosts; no checkpoints")
    assert survivor.endswith("if a client group dies, the others take over")


def test_an_output_that_can_be_no_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserMistake, match=r"output: '.*file' is a file; a run takes a folder"):
        _check_output(str(tmp_path / "file"), False, False)
    with pytest.raises(UserMistake, match=r"output: folder '.*run' cannot be written: Not a directory"):
        _check_output(str(tmp_path / "file" / "run"), True, False)
    with pytest.raises(UserMistake, match=r"output: 'a\\x00b' has a null character"):
        _check_output("a\0b", False, True)
