"""What the doctor asks of the MPI library itself; a run needs none of it.

As a program it sends a buffer of a device to itself: MPI that takes the address for one of host memory crashes.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_LOADED = re.compile(r"\S*/libmpi(_\w+)?\.so\S*")
_NUM_VALUES = 1 << 18  # 1 MiB: more than goes out with the first message


def describe_mpi() -> dict[str, str]:
    """The standard that the library follows, the thread level it gave, its release and the file it was loaded from."""
    from mpi4py import MPI

    levels = {
        MPI.THREAD_SINGLE: "single",
        MPI.THREAD_FUNNELED: "funneled",
        MPI.THREAD_SERIALIZED: "serialized",
        MPI.THREAD_MULTIPLE: "multiple",
    }
    version, subversion = MPI.Get_version()
    return {
        "standard": f"{version}.{subversion}",
        "thread_level": levels[MPI.Query_thread()],
        "library": _release(MPI.Get_library_version()),
        "path": _loaded_from(),
    }


def echo(device: str) -> bool:
    """Whether a buffer of a torch device comes back right from MPI, sent by this process to itself."""
    import torch
    from mpi4py import MPI

    sent = torch.arange(_NUM_VALUES, dtype=torch.float32, device=device)
    received = torch.zeros_like(sent)
    if sent.is_cuda:
        torch.cuda.synchronize()
    MPI.COMM_SELF.Sendrecv(sent, 0, recvbuf=received, source=0)
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
    print("right" if echo(sys.argv[1]) else "wrong")
