"""Each line of the doctor that made-up facts can break, whole and broken."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raffm_mpi.config import ComputeSettings
from raffm_mpi.doctor import checks, machine
from raffm_mpi.doctor.findings import exit_status, fail, ok, warn
from raffm_mpi.doctor.folder import FREE, HELD, MISSING, NO_LOCKS, Folder
from raffm_mpi.doctor.gpus import GPUs
from raffm_mpi.doctor.sources import Sources
from raffm_mpi.exchange.launcher import Launcher


def changed(facts, rank, **changes):
    """The facts with some of one rank's changed."""
    return [replace(own, **changes) if own.rank == rank else own for own in facts]


def is_well(finding):
    return finding.level == "ok" and not finding.advice


def is_said(finding, level, *words):
    """Whether a finding has a level, and its text and advice have the words."""
    return finding.level == level and all(word in f"{finding.text} {finding.advice}" for word in words)


def test_only_what_fails_gives_status_1():
    assert exit_status([ok("a", "b"), warn("a", "b", "c")]) == 0
    assert exit_status([ok("a", "b"), fail("a", "b", "c")]) == 1


def test_ranks_with_another_library_are_named_by_host(well):
    facts = well(3, hosts=3)
    assert is_well(checks.check_mpi(facts))
    facts = changed(facts, 2, mpi=replace(facts[2].mpi, library="MPICH Version: 4.3.0"))
    assert is_said(checks.check_mpi(facts), "fail", "Open MPI v5.0.11 on n1, n2", "MPICH Version: 4.3.0 on n3")


def test_a_launcher_that_started_more_than_mpi_joined_fails(well):
    assert is_well(checks.check_launcher(well(4)))
    assert is_well(checks.check_launcher(well(1)))
    lone = well(1, launcher=Launcher("srun", 4, 0))
    finding = checks.check_launcher(lone, ["none", "pmi2", "pmix_v4"])
    assert is_said(finding, "fail", "srun started 4 processes, but each is alone", "srun --mpi=pmix_v4")
    assert is_said(checks.check_launcher(lone, ["none", "pmi2"]), "fail", "mpirun, as this Slurm has no PMIx")
    lone = well(1, launcher=Launcher("a PMI launcher", 4, 0))
    assert is_said(checks.check_launcher(lone), "fail", "each is alone", "the mpirun or mpiexec of Open MPI v5.0.11")
    assert is_well(checks.check_launcher(well(3, launcher=Launcher("a PMIx launcher", 0, 0, "4.2"))))
    some = well(2, launcher=Launcher("mpirun", 4, 0))
    assert is_said(checks.check_launcher(some), "fail", "MPI joined 2 of them")


def test_one_process_in_an_allocation_of_more_is_warned_of(well):
    lone = well(1, launcher=Launcher(allocated=4))
    assert is_said(checks.check_launcher(lone), "warn", "allocation of 4 tasks", "srun --mpi=pmix")


def test_open_mpi_without_pmix_fails_unless_it_joined_the_ranks_anyhow(well):
    assert is_well(checks.check_pmix(well(4)))
    assert is_well(checks.check_pmix(well(1)))
    assert is_well(checks.check_pmix(well(2, launcher=Launcher("a PMI launcher", 2, 0))))
    assert is_said(checks.check_pmix(well(1, launcher=Launcher("srun", 2, 0))), "fail", "srun --mpi=pmix")
    lone = well(1, launcher=Launcher("srun", 2, 0))
    lone = changed(lone, 0, mpi=replace(lone[0].mpi, library="MPICH Version: 4.3.0"))
    assert is_said(checks.check_pmix(lone), "warn", "MPICH")


def test_a_single_thread_level_is_warned_of(well):
    facts = well(2)
    assert is_well(checks.check_thread_level(facts))
    facts = changed(facts, 1, mpi=replace(facts[1].mpi, thread_level="single"))
    assert is_said(checks.check_thread_level(facts), "warn", "ranks 1", "MPI4PY_RC_THREADS")


def test_without_ulfm_a_dead_rank_is_warned_of_in_the_launchers_terms(well):
    assert is_well(checks.check_failures(well(3)))
    assert is_well(checks.check_failures(well(1)))
    assert is_said(checks.check_failures(well(3, survives_failures=False)), "warn", "add --with-ft ulfm")
    srun = well(3, survives_failures=False, launcher=Launcher("srun", 3, 0, "4.2"))
    assert is_said(checks.check_failures(srun), "warn", "instead of srun")
    mpich = well(3, survives_failures=False)
    mpich = changed(mpich, 0, mpi=replace(mpich[0].mpi, library="MPICH Version: 4.3.0"))
    assert is_said(checks.check_failures(mpich), "warn", "MPICH Version: 4.3.0 has no ULFM")


def test_lost_nodes_need_a_detector_only_where_there_are_several(well):
    assert is_well(checks.check_failed_nodes(well(4, hosts=2)))
    assert is_well(checks.check_failed_nodes(well(4, finds_failed_nodes=False)))
    blind = well(4, hosts=2, finds_failed_nodes=False)
    assert is_said(checks.check_failed_nodes(blind), "warn", "hang the run", "mpi_ft_detector_thread true")
    plain = well(4, hosts=2, finds_failed_nodes=False, survives_failures=False)
    assert is_said(checks.check_failed_nodes(plain), "warn", "scheduler", "mpi_ft_detector true")


def test_a_host_with_another_version_is_named_and_fails(well):
    facts = well(4, hosts=2)
    assert is_well(checks.check_versions(facts))
    for rank in (1, 3):
        facts = changed(facts, rank, versions={**facts[rank].versions, "torch": "2.7.1"})
    finding = checks.check_versions(facts)
    assert is_said(finding, "fail", "torch is 2.8.0 on n1, 2.7.1 on n2", "one environment")
    assert "python" not in finding.text


def test_a_missing_library_fails(well):
    facts = well(2, versions={"torch": "2.8.0", "h5py": "missing"})
    assert is_said(checks.check_versions(facts), "fail", "missing: h5py", "pip install")


def test_threads_beyond_the_cores_of_a_host_are_warned_of(well):
    assert is_well(machine.check_cores(well(3), 4))  # two groups: the server sleeps
    assert is_said(machine.check_cores(well(4), 4), "warn", "3 groups x 4 threads share 8 cores", "threads_per_group=2")
    assert is_said(machine.check_cores(well(20), 1), "warn", "19 groups x 1 thread share 8 cores", "at most 8 groups")
    assert is_well(machine.check_cores(well(4, hosts=2), 4))
    assert is_said(machine.check_cores(well(1), 64), "warn", "8 cores of 8 for 64 threads", "threads_per_group=8")


def test_a_rank_that_is_bound_to_fewer_cores_than_threads_is_warned_of(well):
    facts = changed(well(3), 2, cpus=(3,))
    assert is_well(machine.check_cores(facts, 1))
    finding = machine.check_cores(facts, 2)
    assert is_said(finding, "warn", "rank 2 on n1 may use 1 core of 8", "--bind-to none", "--cpus-per-task=2")


def test_groups_that_are_bound_to_one_core_together_are_warned_of(well):
    facts = well(3, cpus=(5,))
    assert is_said(machine.check_cores(facts, 1), "warn", "2 groups x 1 thread share 1 core", "--bind-to none")


def with_gpus(facts, *taken, seen=("A", "B")):
    """Ranks 1, 2, … see the GPUs and take one each."""
    for rank, gpu in enumerate(taken, 1):
        facts = changed(facts, rank, gpus=GPUs(2, tuple(seen), gpu, echo="right"))
    return facts


def test_each_group_has_its_own_gpu_or_that_is_said(well):
    auto = ComputeSettings()
    assert is_well(machine.check_gpus(with_gpus(well(3), "A", "B"), auto))
    assert is_well(machine.check_gpus(well(3), auto))
    assert is_said(machine.check_gpus(with_gpus(well(3), "A", "A"), auto), "warn", "ranks 1, 2 share A of n1")
    assert is_said(machine.check_gpus(with_gpus(well(2), "A"), auto), "warn", "1 of n1 idle (B)", "1 ranks more")
    assert is_well(machine.check_gpus(with_gpus(well(3, hosts=2), "A", "A", seen=("A",)), auto))
    assert is_said(machine.check_gpus(with_gpus(well(3), "A"), auto), "warn", "none for rank 2")


def test_a_gpu_that_is_asked_for_and_not_seen_fails(well):
    assert is_well(machine.check_gpus(well(2), ComputeSettings(device="cpu")))
    assert is_said(machine.check_gpus(well(2), ComputeSettings(device="cuda")), "fail", "compute.device=cuda", "rank 1")
    assert is_said(machine.check_gpus(well(2), ComputeSettings(precision="bf16")), "fail", "compute.precision=bf16")


def test_a_gpu_that_is_there_and_not_seen_is_warned_of(well):
    hidden = well(2, gpus=GPUs(present=2, visible=""))
    finding = machine.check_gpus(hidden, ComputeSettings())
    assert is_said(finding, "warn", "none of 2 of n1", "CUDA_VISIBLE_DEVICES=''", "--gres=gpu:N")


def test_gpu_aware_mpi_is_only_what_a_transfer_showed(well):
    spare, wanted = ComputeSettings(), ComputeSettings(gpu_aware_mpi=True)
    right = well(2, gpus=GPUs(1, ("A",), "A", echo="right"))
    crashed = well(2, gpus=GPUs(1, ("A",), "A", echo="it ended with signal 11"))
    said = "failed on n1: it ended with signal 11"
    assert is_said(machine.check_gpu_aware(well(2), spare), "ok", "not tried")
    assert is_said(machine.check_gpu_aware(well(2), wanted), "fail", "no GPU to try it with", "gpu_aware_mpi=false")
    assert is_said(machine.check_gpu_aware(right, spare), "ok", "came back right", "would use that")
    assert is_said(machine.check_gpu_aware(right, wanted), "ok", "came back right", "; used")
    assert is_said(machine.check_gpu_aware(crashed, spare), "warn", said, "pinned host memory")
    assert is_said(machine.check_gpu_aware(crashed, wanted), "fail", said, "compute.gpu_aware_mpi=false")


WELL = Folder("/runs", "2.0.0", lock=HELD, followed=True, elsewhere={"n2": HELD})


def test_hdf5_that_cannot_be_told_to_lock_fails():
    assert is_well(machine.check_hdf5(WELL))
    assert is_well(machine.check_hdf5(replace(WELL, hdf5="1.14.6")))
    assert is_said(machine.check_hdf5(replace(WELL, hdf5="1.10.4")), "fail", "1.10.4", "pip install h5py")


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({}, "ok", ["the same from 2 hosts"]),
        ({"error": "No space left on device"}, "fail", ["No space left on device", "another output="]),
        ({"followed": False}, "warn", ["cannot follow"]),
        ({"lock": FREE}, "warn", ["not locked", "HDF5_USE_FILE_LOCKING=FALSE"]),
        ({"lock": NO_LOCKS}, "warn", ["has no locks"]),
        ({"elsewhere": {"n2": MISSING}}, "warn", ["not the same folder on n2", "shared file system"]),
        ({"elsewhere": {"n2": FREE}}, "warn", ["do not hold on n2", "nolock"]),
    ],
)
def test_the_logs_folder_is_judged_by_what_was_tried(changes, level, words):
    assert is_said(machine.check_log_folder(replace(WELL, **changes), True, "FALSE"), level, *words)


def test_space_is_compared_with_what_a_run_keeps():
    assert is_well(machine.check_space("/runs", 10**10, 10**9))
    assert is_well(machine.check_space("/runs", 10**10, None))
    assert is_said(machine.check_space("/runs", 15 * 10**8, 10**9), "warn", "1.5 GB free", "1 GB", "checkpoints_kept")
    assert is_said(machine.check_space("/runs", 5 * 10**8, None), "warn", "500 MB free")
    assert is_said(machine.check_space("/runs", 10**6, 10**9), "fail", "1 MB free")
    assert is_said(machine.check_space("/runs", 0, None), "fail")


HUB = Sources("https://hub", "/cache", on_hub=("a/model",), reachable=True)


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({}, "ok", ["https://hub answers, for a/model"]),
        ({"not_cached": ("a/model",)}, "ok", ["answers"]),
        ({"reachable": False}, "warn", ["does not answer on n2", "all is cached", "HF_HUB_OFFLINE=1"]),
        ({"reachable": False, "not_cached": ("a/model",)}, "fail", ["on n2", "lacks a/model", "hf download a/model"]),
        ({"reachable": None, "offline": True}, "ok", ["answers"]),  # as n1 is asked and answers
        ({"reachable": None, "offline": True, "not_cached": ("a/model",)}, "fail", ["HF_HUB_OFFLINE is set on n2"]),
        ({"absent": ("/data",)}, "fail", ["no folder '/data' on n2"]),
        ({"on_hub": (), "reachable": False}, "warn", ["does not answer on n2"]),
    ],
)
def test_one_host_without_hub_and_cache_is_named(well, changes, level, words):
    facts = changed(changed(well(4, hosts=2), 0, sources=HUB), 1, sources=replace(HUB, **changes))
    assert is_said(machine.check_sources(facts), level, *words)


def test_offline_with_all_in_the_cache_is_well(well):
    facts = well(1, sources=replace(HUB, reachable=None, offline=True))
    assert is_said(machine.check_sources(facts), "ok", "offline", "a/model")
    assert is_said(machine.check_sources(well(1, sources=replace(HUB, on_hub=(), reachable=None))), "ok", "nothing")
