"""Judge the facts on cores, GPUs, the output folder and the sources of model and data. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from raffm_mpi.config import ComputeSettings
from raffm_mpi.doctor.facts import Facts
from raffm_mpi.doctor.findings import Finding, fail, listed, ok, warn
from raffm_mpi.doctor.folder import FREE, HELD, MISSING, NO_LOCKS, Folder
from raffm_mpi.exchange.probe import RIGHT
from raffm_mpi.messages import quantity

OLDEST_HDF5 = (1, 10, 7)  # the oldest release that can be told not to lock
_LITTLE_BYTES = 10**9


def check_cores(facts: Sequence[Facts], threads: int) -> Finding:
    """Compare the threads of the client groups with the cores that they may use; the server mostly sleeps."""
    groups = [own for own in facts if own.trains]
    by_host = _by_host(groups)
    for own in groups:
        if len(own.cpus) < threads:
            text = f"{own.place} may use {_cores(len(own.cpus))} of {own.host_cpus} for {threads} threads"
            return warn("cores", text, _more_cores(own, 1, threads))
    for host, here in by_host.items():
        cores = _cores_of(here)
        if len(here) * threads > cores:
            text = f"{_groups(here, threads)} share {_cores(cores)} of {host}"
            return warn("cores", text, _more_cores(here[0], len(here), threads))
    host, here = max(by_host.items(), key=lambda item: len(item[1]) / _cores_of(item[1]))
    return ok("cores", f"{_cores(_cores_of(here))} of {host} for {_groups(here, threads)}")


def check_gpus(facts: Sequence[Facts], settings: ComputeSettings) -> Finding:
    """Which group takes which GPU."""
    groups = [own for own in facts if own.trains]
    without = [own for own in groups if not own.gpus.taken]
    if settings.device == "cpu" and settings.precision == "fp32":
        return ok("GPUs", "not used: compute.device is cpu")
    if without and (settings.device == "cuda" or settings.precision == "bf16"):
        asked = f"compute.{'device=cuda' if settings.device == 'cuda' else 'precision=bf16'}"
        return fail(
            "GPUs",
            f"{asked}, but torch sees no GPU for {listed(own.place for own in without)}{_blind(without[0])}",
            "srun --gpus-per-task=1, a torch built for CUDA, or compute.device=auto compute.precision=fp32",
        )
    blind = [own for own in without if own.gpus.present]
    if blind:
        return warn(
            "GPUs",
            f"torch sees none of {blind[0].gpus.present} of {blind[0].host}{_blind(blind[0])}",
            "a torch built for this driver (python -c 'import torch; print(torch.version.cuda)'), and GPUs in the "
            "allocation (--gres=gpu:N)",
        )
    if len(without) == len(groups):
        return ok("GPUs", "none: client groups train on cores")
    if without:
        return warn("GPUs", f"none for {listed(own.place for own in without)}", "hosts of one kind, for equal groups")
    return _check_binding(groups)


def check_gpu_aware(facts: Sequence[Facts], settings: ComputeSettings) -> Finding:
    """Whether MPI takes the memory of a GPU; a run relies on that only where ``compute.gpu_aware_mpi`` says so."""
    topic, is_wanted = "GPU-aware MPI", settings.gpu_aware_mpi
    tried = [own for own in facts if own.gpus.echo]
    if not tried and is_wanted:
        return fail(topic, "compute.gpu_aware_mpi, but there is no GPU to try it with", "compute.gpu_aware_mpi=false")
    if not tried:
        return ok(topic, "not tried without a GPU; a run sends from host memory")
    wrong = [own for own in tried if own.gpus.echo != RIGHT]
    if wrong:
        text = f"a transfer of a GPU's memory failed on {wrong[0].host}: {wrong[0].gpus.echo}"
        if is_wanted:
            return fail(topic, text, "compute.gpu_aware_mpi=false, or an MPI built with CUDA or ROCm")
        return warn(topic, text, "nothing: a run sends from pinned host memory; compute.gpu_aware_mpi would fail")
    hosts = listed(own.host for own in tried)
    use = "used" if is_wanted else "compute.gpu_aware_mpi=true would use that"
    return ok(topic, f"a buffer of a GPU came back right on {hosts}; {use}")


def check_hdf5(folder: Folder) -> Finding:
    """Whether HDF5 is new enough to be told not to lock."""
    if tuple(int(part) for part in folder.hdf5.split(".")[:3]) < OLDEST_HDF5:
        oldest = ".".join(map(str, OLDEST_HDF5))
        return fail("HDF5", f"{folder.hdf5} cannot be told whether to lock", f"pip install h5py with HDF5 {oldest} on")
    return ok("HDF5", folder.hdf5)


def check_log_folder(folder: Folder, locking: bool, environment: str | None) -> Finding:
    """Whether a log can be written there, followed and locked; ``environment`` is HDF5_USE_FILE_LOCKING."""
    topic, place = "log", f"'{folder.place}'"
    setting = f"HDF5_USE_FILE_LOCKING={environment}" if environment else f"log.file_locking={str(locking).lower()}"
    if folder.error:
        return fail(
            topic,
            f"no HDF5 file can be written in {place}: {folder.error}",
            "another output=; where the error is of locks, log.file_locking=false and HDF5_USE_FILE_LOCKING=FALSE",
        )
    if not folder.followed:
        advice = "output= on a file system that all processes of the host read at once; reports after the run work"
        return warn(topic, f"another process cannot follow what is written in {place}", advice)
    unseen = [host for host, state in (folder.elsewhere or {}).items() if state == MISSING]
    if unseen:
        return warn(
            topic,
            f"{place} is not the same folder on {listed(unseen)}",
            "output= on a shared file system, else a job that is requeued there does not find its run",
        )
    if folder.lock == NO_LOCKS:
        return warn(topic, f"the file system of {place} has no locks", "never start two runs with this output")
    if folder.lock == FREE:
        advice = f"let HDF5 lock (now {setting}), or never start two runs with this output"
        return warn(topic, f"what is written in {place} is not locked", advice)
    unlocked = [host for host, state in (folder.elsewhere or {}).items() if state != HELD]
    if unlocked:
        advice = "mount it with locks (NFS: without nolock and local_lock), or never start two runs with this output"
        return warn(topic, f"locks in {place} do not hold on {listed(unlocked)}", advice)
    hosts = f", the same from {1 + len(folder.elsewhere)} hosts" if folder.elsewhere else ""
    return ok(topic, f"written, locked and followed in {place}{hosts}")


def check_space(place: str, free: int, needed: int | None) -> Finding:
    """Compare the free bytes with what a run writes (checkpoints, model, sums); ``needed`` is None where not known."""
    text = f"{quantity(free, 'B')} free in '{place}'"
    text += f", a run keeps about {quantity(needed, 'B')}" if needed else ""
    advice = "free some, another output=, fewer reliability.checkpoints_kept, or reliability.checkpoint_every=null"
    if free < (needed or 1):
        return fail("space", text, advice)
    if free < max(2 * (needed or 0), 0 if needed else _LITTLE_BYTES):
        return warn("space", text, advice)
    return ok("space", text)


def check_sources(facts: Sequence[Facts]) -> Finding:
    """Whether every host finds model and data set, or can get them from the hub."""
    found = {own.host: own.sources for own in facts if own.sources}
    absent = [f"'{name}' on {host}" for host, own in found.items() for name in own.absent]
    if absent:
        return fail("hub", f"no folder {listed(absent)}", "copy it there, or give a folder that all hosts share")
    first = next(iter(found.values()))
    lacking = [host for host, own in found.items() if own.not_cached and not own.reachable]
    if lacking:
        own = found[lacking[0]]
        assert own is not None
        names = listed(own.not_cached)
        why = "HF_HUB_OFFLINE is set" if own.offline else f"{own.endpoint} does not answer"
        return fail(
            "hub",
            f"{why} on {listed(lacking)}, and its cache {own.cache} lacks {names}",
            f"hf download {own.not_cached[0]} (a data set: --repo-type dataset) where there is a network, HF_HOME on a "
            "folder that all hosts share",
        )
    silent = [host for host, own in found.items() if own.reachable is False]
    assert first is not None
    if silent:
        return warn(
            "hub",
            f"{first.endpoint} does not answer on {listed(silent)}" + (", all is cached" if first.on_hub else ""),
            "HF_HUB_OFFLINE=1, which spares waiting" if first.on_hub else "a proxy (https_proxy), or local folders",
        )
    if first.on_hub and first.offline:
        return ok("hub", f"offline, and the cache {first.cache} has {listed(first.on_hub)}")
    if first.on_hub:
        return ok("hub", f"{first.endpoint} answers, for {listed(first.on_hub)}")
    return ok("hub", f"{first.endpoint} answers" if first.reachable else "nothing comes from it")


def _check_binding(groups: Sequence[Facts]) -> Finding:
    shared: dict[tuple[str, str], list[Facts]] = {}
    for own in groups:
        shared.setdefault((own.host, own.gpus.taken), []).append(own)
    for (host, gpu), owners in shared.items():
        if len(owners) > 1:
            ranks = listed(own.rank for own in owners)
            advice = "one group a GPU (one rank more than GPUs in all), or NVIDIA's MPS: nvidia-cuda-mps-control -d"
            return warn("GPUs", f"ranks {ranks} share {gpu} of {host}", advice)
    for host, here in _by_host(groups).items():
        idle = {gpu for own in here for gpu in own.gpus.seen} - {own.gpus.taken for own in here}
        if idle:
            return warn("GPUs", f"{len(idle)} of {host} idle ({listed(idle, 2)})", f"{len(idle)} ranks more there")
    return ok("GPUs", "a GPU for each: " + listed(f"rank {own.rank} {own.gpus.taken} of {own.host}" for own in groups))


def _blind(own: Facts) -> str:
    return f" (CUDA_VISIBLE_DEVICES='{own.gpus.visible}')" if own.gpus.visible is not None else ""


def _by_host(facts: Sequence[Facts]) -> dict[str, list[Facts]]:
    found: dict[str, list[Facts]] = {}
    for own in facts:
        found.setdefault(own.host, []).append(own)
    return found


def _more_cores(own: Facts, num_groups: int, threads: int) -> str:
    """Advice: how the groups of a host get its cores, or need fewer of them."""
    if num_groups * threads <= own.host_cpus:
        return f"mpirun --bind-to none, or srun --cpus-per-task={threads}"
    if num_groups <= own.host_cpus:
        return f"compute.threads_per_group={own.host_cpus // num_groups}"
    return f"at most {own.host_cpus} groups on a host"


def _cores_of(facts: Sequence[Facts]) -> int:
    """The cores that some ranks of a host may use together."""
    return len({cpu for own in facts for cpu in own.cpus})


def _groups(groups: Sequence[Facts], threads: int) -> str:
    return f"{len(groups)} group{'s' * (len(groups) != 1)} x {threads} thread{'s' * (threads != 1)}"


def _cores(number: int) -> str:
    return f"{number} core{'s' * (number != 1)}"
