"""A Slurm cluster on this machine for the tests: real slurmctld, slurmd and munge, each host in namespaces of its own.

A host has its own network, host name, processes, /dev/shm and local scratch; a bridge joins the hosts, so MPI between
nodes goes over TCP. Each claims CPUs that the machine may not have: the cluster is for behaviour, not for speed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from support.waiting import TIMEOUT_S, wait_until

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "unshare", "nsenter")
NEW_NAMESPACES = ("unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
SEARCH_PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"  # this Python's mpirun first
CPUS_PER_NODE = 4

# The job states after which nothing more happens.
FINISHED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}

# The times are short where a test would wait for them. A lost node is not noticed by itself while a test runs:
# SlurmdTimeout is longer than that, see Cluster.notice_failure. cred_expire is how long a requeued job is held back.
SLURM_CONF = """\
ClusterName=test
SlurmctldHost=ctl(10.77.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
TmpFS={root}/scratch
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
SlurmdParameters=config_overrides
SlurmdTimeout=600
ReturnToService=2
KillWait=5
MinJobAge=86400
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

# The first process of a host. It lives as long as its standard input, which the tests hold; when it ends, however the
# tests ended, the kernel kills the host's other processes and frees its namespaces.
HOST_INIT = """
hostname "$1" && ip link set lo up && mount --bind "$2/hosts" /etc/hosts &&
mount -t tmpfs tmpfs /dev/shm && mount -t tmpfs tmpfs "$2/scratch" && echo up && read -r
"""

# A job must not inherit what another Slurm or MPI put into this process.
FOREIGN = ("OMPI_", "PMIX_", "PRTE_", "SLURM_", "SBATCH_", "SRUN_")


def _until(condition: Callable[[], object]) -> bool:
    """Return True as soon as ``condition()`` is true, False where that takes too long for anything but a hang."""
    with contextlib.suppress(AssertionError):
        wait_until(condition, "", every_s=0.1)
        return True
    return False


class Host:
    """One host of the cluster: a process tree in namespaces of its own."""

    def __init__(self, name: str, root: Path) -> None:
        self.name, self.root = name, root
        self._keeper = subprocess.Popen(
            [*NEW_NAMESPACES, "bash", "-c", HOST_INIT, "init", name, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        if self._keeper.stdout.readline() != "up\n":
            _, reason = self._keeper.communicate()
            raise OSError(f"host {name} does not start: {reason.strip()}")
        self.pid = psutil.Process(self._keeper.pid).children()[0].pid  # of its first process, as seen from outside
        self._pid_namespace = os.stat(f"/proc/{self.pid}/ns/pid").st_ino

    def command(self, *words: str | Path) -> list[str]:
        """Return the command line that runs ``words`` on this host."""
        return ["nsenter", "--target", str(self.pid), "--net", "--uts", "--mount", "--pid", "--", *map(str, words)]

    def start_daemon(self, *words: str | Path, env: dict[str, str]) -> None:
        """Start a daemon that stays in the foreground; what it says goes to a log named after it."""
        with (self.root / "log" / f"{Path(words[0]).name}-{self.name}").open("a") as log:
            subprocess.Popen(self.command(*words), env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def processes(self) -> list[psutil.Process]:
        """Return the host's living processes, as seen from outside."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):  # it ended meanwhile
                here = os.stat(f"/proc/{process.pid}/ns/pid").st_ino == self._pid_namespace
                if here and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def stop(self) -> None:
        """Kill every process of the host."""
        self._keeper.kill()
        self._keeper.communicate()
        _until(lambda: not self.processes())


class Cluster:
    """A login host ``ctl`` and the nodes ``n1``, ``n2``, …; the file system is shared, ``$TMPDIR`` is a node's own.

    ``python`` and ``mpirun`` on PATH are those beside the Python that runs the tests.
    """

    def __init__(self, root: Path, num_nodes: int = 2) -> None:
        self.root = root
        self.nodes = [f"n{i}" for i in range(1, num_nodes + 1)]
        self._hosts: dict[str, Host] = {}
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)},
            "PATH": SEARCH_PATH,
            "SLURM_CONF": f"{root}/slurm.conf",
            "TMPDIR": f"{root}/scratch",
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        }

    def start(self) -> None:
        """Start every host and its daemons, and return when all nodes are idle."""
        for folder in ("jobs", "log", "munge", "scratch", "state"):
            (self.root / folder).mkdir()
        nodes = "\n".join(
            f"NodeName={name} NodeAddr={self._address(name)} CPUs={CPUS_PER_NODE} State=UNKNOWN" for name in self.nodes
        )
        (self.root / "slurm.conf").write_text(SLURM_CONF.format(root=self.root, nodes=nodes))
        hosts = "".join(f"{self._address(name)} {name}\n" for name in ("ctl", *self.nodes))
        (self.root / "hosts").write_text(f"127.0.0.1 localhost\n{hosts}")
        self._start_login_host()
        for name in self.nodes:
            self._start_node(name)
        if not _until(lambda: all(self._node_is_idle(name) for name in self.nodes)):
            raise RuntimeError(f"the nodes do not become idle:\n{self.diagnosis()}")

    def stop(self) -> None:
        """Kill every host with all that runs on it."""
        for host in self._hosts.values():
            host.stop()
        self._hosts.clear()

    def enter(
        self,
        *command: str | Path,
        env: dict[str, str] | None = None,
        given: str = "",
        timeout: float = TIMEOUT_S,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``command`` on the login host and return what it printed; ``env`` adds to the environment.

        A non-zero exit status fails the test, except with ``check=False``; so does SIGKILL after ``timeout`` seconds.
        """
        process = subprocess.Popen(
            self._hosts["ctl"].command(*command),
            env={**self._environment, **(env or {})},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            printed = process.communicate(given, timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # nsenter's child, too, which holds the pipes open
            printed = process.communicate()
        if check and process.returncode != 0:
            pytest.fail("\n".join((f"{command} ended with exit status {process.returncode}", *printed)))
        return subprocess.CompletedProcess(process.args, process.returncode, *printed)

    def submit(self, script: str, *options: str, env: dict[str, str] | None = None) -> int:
        """Submit the batch ``script`` (its text; ``#!/bin/bash`` is put before it) and return the job id."""
        log = ["--output", self.root / "jobs" / "%j.log", "--open-mode=append"]
        done = self.enter("sbatch", "--parsable", *log, *options, env=env, given=f"#!/bin/bash\n{script}\n")
        return int(done.stdout)

    def info(self, job_id: int | str) -> dict[str, str]:
        """Return what ``scontrol show job`` knows of a job: JobState, ExitCode, Restarts, NodeList, …"""
        for is_last in (False, False, True):  # a question may be lost where the machine stands still for a while
            answer = self.enter("scontrol", "show", "job", "--oneliner", str(job_id), check=is_last)
            if answer.returncode == 0:
                break
        return dict(word.split("=", 1) for word in answer.stdout.split() if "=" in word)

    def wait(self, job_id: int | str, states: set[str] = FINISHED) -> str:
        """Return the job's state as soon as it is one of ``states``; fail the test where it never is."""
        if not _until(lambda: self.info(job_id)["JobState"] in states):
            pytest.fail(
                f"job {job_id} is {self.info(job_id)['JobState']} for long, not one of {sorted(states)}\n"
                f"{self.log(job_id)}\n{self.diagnosis()}"
            )
        return self.info(job_id)["JobState"]

    def wait_for_log(self, job_id: int, text: str) -> str:
        """Return the job's log as soon as it holds ``text``; fail the test where it never does."""
        if not _until(lambda: text in self.log(job_id)):
            pytest.fail(f"no {text!r} in the log of job {job_id}:\n{self.log(job_id)}\n{self.diagnosis()}")
        return self.log(job_id)

    def log(self, job_id: int | str) -> str:
        """Return what the job has printed so far, over all its restarts."""
        path = self.root / "jobs" / f"{job_id}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def processes(self, name: str) -> list[psutil.Process]:
        """Return the living processes of a host, to look at or to kill; none of a failed node."""
        return self._hosts[name].processes() if name in self._hosts else []

    def fail_node(self, name: str) -> None:
        """Take a node away at once, as a power cut would: no connection is closed, and Slurm is not told."""
        host = self._hosts.pop(name)
        subprocess.run(host.command("ip", "link", "set", "eth0", "down"), check=True)
        host.stop()
        subprocess.run(self._hosts["ctl"].command("ip", "link", "delete", name), check=True)

    def notice_failure(self, name: str) -> None:
        """Let Slurm know now that a node is lost, which it finds out by itself after SlurmdTimeout."""
        self.enter("scontrol", "update", f"nodename={name}", "state=down", "reason=failed")

    def revive_node(self, name: str) -> None:
        """Bring a failed node back, empty, and return when Slurm has it idle; its jobs end if they had not."""
        self.notice_failure(name)
        self._start_node(name)
        if not _until(lambda: self._node_is_idle(name)):
            pytest.fail(f"node {name} does not come back:\n{self.diagnosis()}")

    def diagnosis(self) -> str:
        """Return the state of nodes and jobs and the ends of the daemons' logs."""
        parts = [self.enter(command, check=False).stdout for command in ("sinfo", "squeue")] if self._hosts else []
        for path in sorted((self.root / "log").iterdir()):
            parts.append(f"{path.name}:\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:]))
        return "\n".join(parts)

    def _address(self, name: str) -> str:
        return f"10.77.0.{1 if name == 'ctl' else self.nodes.index(name) + 2}"

    def _start_login_host(self) -> None:
        host = self._hosts["ctl"] = Host("ctl", self.root)
        for words in (
            "link add bridge0 type bridge",
            f"addr add {self._address('ctl')}/24 dev bridge0",
            "link set bridge0 up",
        ):
            subprocess.run(host.command("ip", *words.split()), check=True)
        munge = self.root / "munge"
        key = munge / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={munge / file}" for option, file in files.items()]
        host.start_daemon("munged", "--foreground", "--force", *options, env=self._environment)
        if not _until((munge / "socket").exists):
            raise RuntimeError(f"munged does not start:\n{self.diagnosis()}")
        host.start_daemon("slurmctld", "-D", env=self._environment)

    def _start_node(self, name: str) -> None:
        host = self._hosts[name] = Host(name, self.root)
        bridge_host = self._hosts["ctl"]
        ends = f"name eth0 netns {host.pid} type veth peer name {name} netns {bridge_host.pid}"
        subprocess.run(["ip", "link", "add", *ends.split()], check=True)
        for owner, words in (
            (host, f"addr add {self._address(name)}/24 dev eth0"),
            (host, "link set eth0 up"),
            (bridge_host, f"link set {name} master bridge0 up"),
        ):
            subprocess.run(owner.command("ip", *words.split()), check=True)
        host.start_daemon("slurmd", "-D", "-N", name, env=self._environment)

    def _node_is_idle(self, name: str) -> bool:
        return self.enter("sinfo", "-h", "-n", name, "-o", "%t", check=False).stdout.strip() == "idle"


def _reason_against() -> str | None:
    """Return why no cluster can run here, None if one can."""
    if os.geteuid() != 0:
        return "a Slurm cluster in namespaces needs root"
    if missing := [program for program in PROGRAMS if shutil.which(program, path=SEARCH_PATH) is None]:
        return f"no {', '.join(missing)}: apt-get install slurm-wlm munge libpmix-dev iproute2"
    attempt = subprocess.run(
        [*NEW_NAMESPACES, "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], capture_output=True, text=True
    )
    return f"no permission for namespaces: {attempt.stderr.strip()}" if attempt.returncode != 0 else None


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running ``Cluster`` of two nodes; skips where none can run."""
    if reason := _reason_against():
        pytest.skip(reason)
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
