"""The commands of both launchers, and the points of a sweep."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raffm_mpi.errors import UserMistake
from raffm_mpi.launch.launchers import Place, clean_up, command
from raffm_mpi.launch.sweep import expand

PROGRAM = ["raffm-mpi", "run"]


@pytest.fixture(autouse=True)
def both_are_here(monkeypatch):
    monkeypatch.setattr("raffm_mpi.launch.launchers._find", lambda name: name)
    monkeypatch.setattr("raffm_mpi.launch.launchers._is_open_mpi_5", lambda: True)


def test_the_server_is_one_rank_more_on_the_first_host_under_both_launchers():
    place = Place(("a", "b", "c"), groups_per_node=4)
    by_mpirun = command("mpirun", place, PROGRAM)
    assert "--host a:5,b:4,c:4" in str(by_mpirun)
    assert "-n 13 " in str(by_mpirun)
    by_srun = command("srun", place, PROGRAM)
    assert Path(by_srun.environment["SLURM_HOSTFILE"]).read_text().split() == ["a"] * 5 + ["b"] * 4 + ["c"] * 4
    assert {"--ntasks=13", "--nodes=3", "--distribution=arbitrary"} <= set(by_srun.words)
    clean_up(by_srun)
    assert not Path(by_srun.environment["SLURM_HOSTFILE"]).exists()


@pytest.mark.parametrize(("cpus", "is_bound"), [(8, True), (7, False)])
def test_ranks_are_bound_to_their_cpus_where_there_are_enough(monkeypatch, cpus, is_bound):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cpus)))
    words = command("mpirun", Place(("a",), groups_per_node=3, threads=2), PROGRAM).words
    assert ("slot:PE=2:HWTCPUS:OVERSUBSCRIBE" in words) == is_bound
    assert words[words.index("--bind-to") + 1] == ("hwthread" if is_bound else "none")


def test_what_belongs_to_a_step_of_slurm_stays_out_of_the_ranks_environment(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_CONF", "SLURM_STEP_ID", "SLURM_NTASKS", "PMIX_RANK", "SLURM_CPUS_PER_TASK"):
        monkeypatch.setenv(name, "1")
    environment = command("mpirun", Place(("a",)), PROGRAM).environment
    assert {name for name in environment if name.startswith(("SLURM", "PMI"))} == {"SLURM_JOB_ID", "SLURM_CONF"}


def test_another_mpi_than_open_mpi_5_runs_on_one_machine_and_not_on_several(monkeypatch):
    monkeypatch.setattr("raffm_mpi.launch.launchers._is_open_mpi_5", lambda: False)
    assert str(command("mpirun", Place(groups_per_node=2), PROGRAM)) == "mpirun -n 3 raffm-mpi run"
    with pytest.raises(
        UserMistake, match="'mpirun' is not Open MPI 5, which starts ranks on several nodes; take 'srun'"
    ):
        command("mpirun", Place(("a", "b")), PROGRAM)


VALUES = st.lists(
    st.sampled_from(["0", "1.5", "[0, 1]", "{name: raffm, salience: all}", "'a,b'"]), min_size=1, unique=True
)


@given(st.dictionaries(st.sampled_from(["seed", "a.b", "method"]), VALUES, min_size=1))
def test_a_sweep_has_every_combination_once_in_folders_of_their_own(choices):
    points = expand([f"{key}={','.join(values)}" for key, values in choices.items()])
    wanted = [tuple(f"{k}={v}" for k, v in zip(choices, c, strict=True)) for c in itertools.product(*choices.values())]
    assert [point.overrides for point in points] == wanted
    assert len({point.name for point in points}) == len(points) == math.prod(map(len, choices.values()))
    assert all((point.name == "") == (len(points) == 1) for point in points)
    assert not any("/" in point.name or " " in point.name for point in points)
