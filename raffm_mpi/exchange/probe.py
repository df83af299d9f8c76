"""What is asked of the MPI library itself: by the doctor, and by a run that is to hand it the memory of GPUs.

As a program it sends a buffer of a device to itself: MPI that takes the address for one of host memory crashes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from raffm_mpi.exchange.mpi import load_mpi

RIGHT = "right"  # the answer of an echo that came back as it was sent
# What a launcher says to its processes, which is not for theirs; and what of it says how MPI moves data, which is.
_OF_A_JOB = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "SLURM_", "MPI_", "HYDRA_")
_OF_THE_WAY = tuple(f"OMPI_MCA_{name}" for name in ("pml", "btl", "mtl", "opal_cuda", "accelerator"))
_ECHO = (sys.executable, "-m", "raffm_mpi.exchange.probe")
_ECHO_TIMEOUT_S = 60.0
_LOADED = re.compile(r"\S*/libmpi(_\w+)?\.so\S*")
_NUM_VALUES = 1 << 18  # 1 MiB: more than goes out with the first message


def describe_mpi() -> dict[str, str]:
    """The standard that the library follows, the thread level it gave, its release and the file it was loaded from.

    Raises UserMistake where no library can be loaded.
    """
    mpi = load_mpi()
    levels = {
        mpi.THREAD_SINGLE: "single",
        mpi.THREAD_FUNNELED: "funneled",
        mpi.THREAD_SERIALIZED: "serialized",
        mpi.THREAD_MULTIPLE: "multiple",
    }
    version, subversion = mpi.Get_version()
    return {
        "standard": f"{version}.{subversion}",
        "thread_level": levels[mpi.Query_thread()],
        "library": _release(mpi.Get_library_version()),
        "path": _loaded_from(),
    }


def apart_from_the_job(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables for a process that is not to take itself for a rank."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(_OF_THE_WAY) or not name.startswith(_OF_A_JOB)
    }


def echo(device: str, command: tuple[str, ...] = _ECHO) -> str:
    """What came of an MPI transfer of a device's buffer, in a process of its own, which may crash: RIGHT, or why not.

    >>> echo("cpu", ("echo", "right"))
    'right'
    """
    try:
        done = subprocess.run(
            [*command, device],
            capture_output=True,
            text=True,
            timeout=_ECHO_TIMEOUT_S,
            env=apart_from_the_job(os.environ),
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {_ECHO_TIMEOUT_S:.0f} s"
    except OSError as error:
        return f"not started: {error.strerror}"
    if done.returncode < 0:
        return f"it ended with signal {-done.returncode}"
    answer = (done.stdout.split() or [""])[0]
    if done.returncode == 0 and answer:
        return answer
    last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    return f"it ended with status {done.returncode}: {last[:200]}"


def _comes_back(device: str) -> bool:
    """Whether a buffer of a torch device comes back right from MPI, sent by this process to itself."""
    import torch

    sent = torch.arange(_NUM_VALUES, dtype=torch.float32, device=device)
    received = torch.zeros_like(sent)
    if sent.is_cuda:
        torch.cuda.synchronize()
    load_mpi().COMM_SELF.Sendrecv(sent, 0, recvbuf=received, source=0)
    return bool(torch.equal(sent, received))


def _release(text: str) -> str:
    """The first words of a library's long description, as 'Open MPI v5.0.11' or 'MPICH Version: 4.3.0'."""
    return " ".join(text.strip("\0 \n").splitlines()[0].split(",")[0].split())


def _loaded_from() -> str:
    """The file of the MPI library in this process; empty where the system does not tell."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = _LOADED.search(maps)
    return found[0] if found else ""


if __name__ == "__main__":
    print(RIGHT if _comes_back(sys.argv[1]) else "wrong")
