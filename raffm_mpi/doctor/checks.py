"""What the facts of all ranks come to: MPI, its launcher, failures, versions. Pure functions, one line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from raffm_mpi.doctor.facts import Facts, MPILibrary
from raffm_mpi.doctor.findings import Finding, fail, listed, ok, warn
from raffm_mpi.exchange import openmpi
from raffm_mpi.versions import MISSING

ULFM = "mpirun --with-ft ulfm"
DETECTOR = " ".join(f"--mca {name} {value}" for name, value in openmpi.DETECTOR.items())


def check_mpi(facts: Sequence[Facts]) -> Finding:
    """One library on all ranks."""
    libraries = _by_value(facts, lambda own: _library(own).library)
    hosts = list(dict.fromkeys(own.host for own in facts))
    if len(libraries) > 1:
        return fail("MPI", f"ranks have other libraries: {_told(libraries)}", "load the same MPI module on every host")
    counted = f"{len(facts)} rank{'s' * (len(facts) > 1)} on {len(hosts)} host{'s' * (len(hosts) > 1)}"
    return ok("MPI", f"{next(iter(libraries))} (MPI {_library(facts[0]).standard}), {counted}: {listed(hosts)}")


def check_launcher(facts: Sequence[Facts], srun_plugins: Sequence[str] = ()) -> Finding:
    """As many ranks as processes were started: a library that does not know its launcher is alone in each of them."""
    launcher = facts[0].launcher
    if not launcher.name and launcher.allocated > 1:
        return warn(
            "launcher",
            f"one process in a Slurm allocation of {launcher.allocated} tasks",
            f"{_srun(srun_plugins)}, or mpirun, in front of the command",
        )
    if not launcher.name:
        return ok("launcher", "none: this process is server and client group")
    if launcher.size == len(facts):
        return ok("launcher", f"{launcher.name} started {launcher.size}, and MPI joined them")
    if launcher.size == 0:
        return ok("launcher", f"{launcher.name}, which does not tell how many it started; MPI joined {len(facts)}")
    joined = "each is alone" if len(facts) == 1 else f"MPI joined {len(facts)} of them"
    text = f"{launcher.name} started {launcher.size} processes, but {joined}"
    if launcher.name == "srun":
        return fail("launcher", text, f"{_srun(srun_plugins)}, or mpirun in the batch script")
    return fail("launcher", text, f"start them with the launcher of the library: {_mpirun_beside(facts[0])}")


def check_pmix(facts: Sequence[Facts], srun_plugins: Sequence[str] = ()) -> Finding:
    """How the ranks of Open MPI find each other."""
    launcher, library = facts[0].launcher, _library(facts[0]).library
    if not launcher.name:
        return ok("PMIx", "not needed by one process")
    if launcher.pmix:
        return ok("PMIx", f"of {launcher.name}, version {launcher.pmix}")
    if launcher.size == len(facts):
        return ok("PMIx", f"not used: {library} found {launcher.name} without it")
    if "Open MPI" not in library:
        return warn("PMIx", f"{launcher.name} offers none", f"use the way to start ranks that {library} was built for")
    way = _srun(srun_plugins) if launcher.name == "srun" else _mpirun_beside(facts[0])
    return fail("PMIx", f"{launcher.name} offers none, and {library} finds other ranks by nothing else", way)


def check_thread_level(facts: Sequence[Facts]) -> Finding:
    """A process with threads, as torch's, may call MPI from one of them."""
    single = [own.rank for own in facts if _library(own).thread_level == "single"]
    if single:
        return warn(
            "thread level",
            f"MPI_THREAD_SINGLE on ranks {listed(single)}: no other thread may be there, and torch starts some",
            "take an MPI library that is built with threads, and unset MPI4PY_RC_THREADS and MPI4PY_RC_THREAD_LEVEL",
        )
    return ok("thread level", f"MPI_THREAD_{_library(facts[0]).thread_level.upper()}; one thread calls MPI")


def check_failures(facts: Sequence[Facts]) -> Finding:
    """What a dead rank costs."""
    own = facts[0]
    if own.survives_failures:
        return ok("failures", "a dead client group is survived (ULFM); for a dead rank 0 start again with --resume")
    if own.size == 1:
        return ok("failures", "one process: start it again with --resume if it dies")
    text = "a dead rank ends the job, and --resume goes on"
    if "Open MPI" not in _library(own).library:
        return warn("failures", f"{text}: {_library(own).library} has no ULFM", f"Open MPI 5 and {ULFM}, or requeue")
    if own.launcher.name == "mpirun":
        return warn("failures", text, "add --with-ft ulfm to mpirun to survive it")
    return warn("failures", text, f"{ULFM} in the batch script instead of {own.launcher.name}, or requeue the job")


def check_failed_nodes(facts: Sequence[Facts]) -> Finding:
    """Whether a host that falls silent is noticed."""
    own, hosts = facts[0], {each.host for each in facts}
    if own.finds_failed_nodes:
        return ok("failed nodes", "Open MPI's detector finds them, in a thread of its own")
    if len(hosts) == 1:
        return ok("failed nodes", "one host: nothing to find")
    if own.survives_failures:
        return warn(
            "failed nodes", "a host that falls silent is not noticed: its ranks hang the run", f"add {DETECTOR}"
        )
    return warn("failed nodes", "the scheduler must notice them", f"{ULFM} {DETECTOR}, or requeue the job")


def check_versions(facts: Sequence[Facts]) -> Finding:
    """The same libraries on all ranks, else the bits depend on who trains a client."""
    differing = []
    for name in facts[0].versions:
        values = _by_value(facts, lambda own, name=name: own.versions.get(name, MISSING))  # type: ignore[misc]
        if len(values) > 1:
            differing.append(f"{name} is {_told(values)}")
    missing = sorted({name for own in facts for name, value in own.versions.items() if value == MISSING})
    if differing:
        return fail("versions", "; ".join(differing), "use one environment, seen at the same path from every host")
    if missing:
        return fail("versions", f"missing: {listed(missing)}", "pip install -c constraints.txt . in this environment")
    shown = ("raffm_mpi", "python", "torch", "transformers", "mpi4py")
    own = facts[0].versions
    same = "the same on all ranks: " if len(facts) > 1 else ""
    return ok("versions", same + ", ".join(f"{name} {own[name]}" for name in shown if name in own))


def _library(own: Facts) -> MPILibrary:
    return own.mpi or MPILibrary("no MPI library", "", "?", "none")


def _srun(plugins: Sequence[str]) -> str:
    pmix = [name for name in plugins if name.startswith("pmix")]
    if pmix or not plugins:
        return f"srun --mpi={(pmix or ['pmix'])[0]}" + ("" if plugins else " (srun --mpi=list names what it knows)")
    return f"mpirun, as this Slurm has no PMIx (srun --mpi=list: {', '.join(plugins)})"


def _mpirun_beside(own: Facts) -> str:
    """The launcher that came with the library, as far as its file tells."""
    path = Path(_library(own).path)
    beside = [folder / "bin" / "mpirun" for folder in list(path.parents)[1:3]]
    found = [str(launcher) for launcher in beside if launcher.exists()]
    return found[0] if found else f"the mpirun or mpiexec of {_library(own).library}"


def _by_value(facts: Sequence[Facts], value: Callable[[Facts], str]) -> dict[str, list[Facts]]:
    found: dict[str, list[Facts]] = {}
    for own in facts:
        found.setdefault(value(own), []).append(own)
    return found


def _told(values: Mapping[str, Sequence[Facts]]) -> str:
    """Each value with the hosts that have it, the rarest last."""
    ordered = sorted(values.items(), key=lambda item: -len(item[1]))
    return ", ".join(f"{value} on {listed(dict.fromkeys(own.host for own in owners))}" for value, owners in ordered)
