"""A private SLURM cluster on this machine: real but for its GPUs, two on each of two nodes.

What a test sees of queue, signals, preemption and dead nodes is SLURM itself, not what we think of
it. All nodes are on this host (`slurmd -N`, in Debian's build). A cluster has its own folder and
ports, and dies with the process that started it. Needs root.
"""

from __future__ import annotations

import itertools
import os
import random
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

NODES = ("node0", "node1")
GPUS_PER_NODE = 2
CPUS_PER_NODE = 8

# Programs and Debian's packages of them.
PROGRAMS = {"slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "munged": "munge"}
ACCOUNTING_PROGRAMS = {"slurmdbd": "slurmdbd", "mariadbd": "mariadb-server"}

PATIENCE_S = 120
POLL_S = 0.1
# Below those that the kernel gives to clients: while a node is off, nobody else gets its port.
PORTS = range(20000, 32000)
# submitit remembers what it heard of a job by its id alone, so clusters must not share any.
FIRST_JOB_IDS = itertools.count(1000, 1000)

SLURM_CONF = """\
ClusterName=private
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmctldPidFile={folder}/slurmctld.pid
StateSaveLocation={folder}/state
SlurmUser=root
SlurmdSpoolDir={folder}/%n.spool
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/{task_plugin}
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,sched_min_interval=100000,bf_interval=2,batch_sched_delay=0
FirstJobId={first_job_id}
MinJobAge={min_job_age_s}
MaxArraySize={max_array_size}
KillWait={kill_wait_s}
# A requeued job has to wait until the credential of its first start has expired: 2 minutes, if not
# told otherwise; SLURM takes nothing below 5 s.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
# A dead node is asked twice, for as long as MessageTimeout each, and is down after about 11 s. It
# is up again as soon as it speaks.
SlurmdTimeout=5
MessageTimeout=3
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# A preempted job gets the signal that it wants before its time limit (`sbatch --signal`).
SlurmctldParameters=preempt_send_user_signal
# CPUs and memory as written here, not as found.
SlurmdParameters=config_overrides
GresTypes=gpu
PartitionName=gpu Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=5
PartitionName=short Nodes=ALL MaxTime=5 PriorityTier=1 PreemptMode=REQUEUE
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""

NODE_CONF = """\
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=64000 \
Gres=gpu:{gpus}
"""

ACCOUNTING_CONF = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={slurmdbd_port}
AccountingStoragePass={folder}/munge.socket
"""

LIMITS_CONF = """\
AccountingStorageEnforce=associations,limits,qos
"""

SLURMDBD_CONF = """\
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdPort={slurmdbd_port}
PidFile={folder}/slurmdbd.pid
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=slurm
StorageLoc=slurm
"""


def what_is_missing(accounting: bool) -> str | None:
    """Why no cluster can start on this machine and what would help; None when one can."""
    programs = PROGRAMS | (ACCOUNTING_PROGRAMS if accounting else {})
    packages = {package for program, package in programs.items() if not shutil.which(program)}
    if packages:
        return f"no SLURM here: apt-get install {' '.join(sorted(packages))}"
    return "a private SLURM needs root" if os.geteuid() != 0 else None


class Cluster:
    """A cluster whose partition `urgent` preempts the default one, `gpu`, and requeues its jobs.

    With `accounting` there are slurmdbd and a private MariaDB, so that sacct works. `kill_wait_s`
    passes between SIGTERM and SIGKILL; for `min_job_age_s` squeue knows a job that has ended, and
    up to 10 s longer. `task_plugin` "affinity" binds tasks to their cores. Limits of a
    site: `max_array_size`, as in slurm.conf; `max_submit_jobs` of
    the user and `qos_max_submit_jobs` of a user in the QOS `few`, both with accounting alone.
    """

    def __init__(
        self,
        *,
        accounting: bool = False,
        kill_wait_s: int = 5,
        min_job_age_s: int = 3600,
        task_plugin: str = "none",
        max_array_size: int = 1001,
        max_submit_jobs: int | None = None,
        qos_max_submit_jobs: int | None = None,
    ) -> None:
        self.task_plugin = task_plugin
        self.max_array_size = max_array_size
        self.max_submit_jobs = max_submit_jobs
        self.qos_max_submit_jobs = qos_max_submit_jobs
        self.accounting = accounting
        self.kill_wait_s = kill_wait_s
        self.min_job_age_s = min_job_age_s
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        # Not pytest's tmp_path: munged refuses a folder closed to others, and the path of a unix
        # socket has to be shorter than 100 characters.
        self._temporary = tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp")
        self._folder = Path(self._temporary.name)

    @property
    def environment(self) -> dict[str, str]:
        """The variable by which SLURM's programs find this cluster."""
        return {"SLURM_CONF": str(self._folder / "slurm.conf")}

    def start(self) -> None:
        """Start the daemons and wait until every node takes jobs.

        Raises RuntimeError with the end of its log when one of them ends or is silent for a minute;
        what has started by then has to be stopped as well.
        """
        self._folder.chmod(0o755)
        controller_port, database_port, slurmdbd_port, *node_ports = _free_ports()
        self._configure(controller_port, database_port, slurmdbd_port, node_ports)
        self._start_munged()
        if self.accounting:
            self._start_database(database_port)
            self._start_slurmdbd()
        self._start_slurmctld()
        if self._limited:
            self._set_limits()
        for node in NODES:
            self.node_up(node)

    def stop(self) -> None:
        """Kill all jobs and daemons and remove the folder."""
        for node in self._nodes_up():
            self.node_down(node)
        while self._daemons:
            _, daemon = self._daemons.popitem()
            if daemon.poll() is None:
                os.killpg(daemon.pid, signal.SIGKILL)  # slurmctld has a child; nothing to save
                daemon.wait()
        self._temporary.cleanup()

    def reset(self) -> None:
        """Cancel all jobs and switch all nodes on; TimeoutError if a job is left after a minute."""
        self.controller_up()
        self.run("scancel", "--user=root")
        if self._is_busy():  # submitit's jobs ignore SIGTERM: do not wait for `kill_wait_s`
            for node in self._nodes_up():
                self.node_down(node)
        for node in NODES:
            if node not in self._daemons:
                self.node_up(node)
        wait_until(lambda: not self._is_busy(), "squeue to be empty")

    def run(self, program: str, *arguments: str) -> str:
        """What a program of SLURM prints; RuntimeError with its complaint when it fails."""
        done = self._call(program, *arguments)
        if done.returncode:
            raise RuntimeError(f"{program} {' '.join(arguments)} failed: {done.stderr.strip()}")
        return done.stdout.strip()

    def state(self, job_id: str) -> str:
        """A job's state in squeue's words, such as RUNNING; empty when squeue does not know it."""
        command = ("squeue", "--noheader", "--states=all", f"--jobs={job_id}", "--format=%T")
        return self._call(*command).stdout.strip()

    def wait_for(self, job_id: str, state: str) -> None:
        """Return when a job is in a state as `state` gives it; TimeoutError after two minutes."""
        wait_until(lambda: self.state(job_id) == state, f"job {job_id} to be {state or 'gone'}")

    def node_down(self, node: str) -> None:
        """Pull the plug: slurmd and all that its jobs run are gone at once.

        SLURM finds out by itself after about 11 s, or is told: `scontrol update state=down`.
        """
        daemon = self._daemons.pop(node)
        daemon.kill()
        daemon.wait()
        while processes := self._processes(node):
            for process in processes:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

    def node_up(self, node: str) -> None:
        """Switch a node on and wait until it takes jobs; SLURM knows by then what it has lost."""
        # Or else a node that was off too shortly to be missed would seem to answer already.
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=off")
        query = ("sinfo", "--noheader", "--partition=gpu", f"--nodes={node}", "--format=%T")
        self._start_daemon(
            node,
            ["slurmd", "-D", "-N", node],
            lambda: not self.run(*query).startswith("down"),
            SLURMD_NODENAME=node,
        )

    def controller_down(self) -> None:
        """Stop slurmctld: no program of SLURM gets an answer, while jobs run on."""
        daemon = self._daemons.pop("slurmctld")
        daemon.terminate()
        daemon.wait()

    def controller_up(self) -> None:
        """Start slurmctld where it does not run; it knows its jobs again."""
        if "slurmctld" not in self._daemons:
            self._start_slurmctld()

    @property
    def _limited(self) -> bool:
        return self.max_submit_jobs is not None or self.qos_max_submit_jobs is not None

    def _set_limits(self) -> None:
        """An account and a QOS `few` for the user, with the limits that the cluster is to have."""
        self._account("add", "account", "site")
        self._account("add", "user", "root", "account=site")
        self._account("add", "qos", "few")
        limits = {
            ("user", "root"): [f"maxsubmitjobs={self.max_submit_jobs or -1}", "qos=normal,few"],
            ("qos", "few"): [f"maxsubmitjobsperuser={self.qos_max_submit_jobs or -1}"],
        }
        for named, values in limits.items():
            self._account("modify", *named, "set", *values)

    def _account(self, *arguments: str) -> None:
        """What is to be so already, as the user `root` of each new database, is no mistake."""
        wait_until(
            lambda: "error" not in self._call("sacctmgr", "-i", *arguments).stderr.lower(),
            f"sacctmgr {' '.join(arguments)}",
        )

    def _is_busy(self) -> bool:
        return bool(self.run("squeue", "--noheader"))

    def _nodes_up(self) -> list[str]:
        return [node for node in NODES if node in self._daemons]

    def _processes(self, node: str) -> list[int]:
        """Those that inherited the node's variables: slurmd, slurmstepd and all that jobs start."""
        marks = {f"SLURMD_NODENAME={node}", f"SLURM_CONF={self.environment['SLURM_CONF']}"}
        found = []
        for file in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):  # it has ended
                if marks <= set(file.read_text(errors="replace").split("\0")):
                    found.append(int(file.parent.name))
        return found

    def _call(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | self.environment
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    def _start_daemon(
        self, name: str, command: list[str], answers: Callable[[], bool], **variables: str
    ) -> None:
        """Start a daemon that dies with this process, even a killed one, and wait for it."""
        log = self._folder / f"{name}.log"
        with log.open("ab") as output:
            daemon = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                env=os.environ | self.environment | variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for pytest, which then calls `stop`
            )
        self._daemons[name] = daemon
        deadline = time.monotonic() + PATIENCE_S
        while not answers():
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} does not answer:\n{log.read_text()[-3000:]}")
            time.sleep(POLL_S)

    def _configure(
        self, controller_port: int, database_port: int, slurmdbd_port: int, node_ports: list[int]
    ) -> None:
        """Write the configuration files and make the GPUs."""
        host = socket.gethostname().split(".")[0]
        values = {
            "folder": self._folder,
            "host": host,
            "controller_port": controller_port,
            "database_port": database_port,
            "slurmdbd_port": slurmdbd_port,
            "first_job_id": next(FIRST_JOB_IDS),
            "min_job_age_s": self.min_job_age_s,
            "task_plugin": self.task_plugin,
            "max_array_size": self.max_array_size,
            "kill_wait_s": self.kill_wait_s,
            "cpus": CPUS_PER_NODE,
            "gpus": GPUS_PER_NODE,
        }
        text = SLURM_CONF + (ACCOUNTING_CONF if self.accounting else "")
        text += LIMITS_CONF if self._limited else ""
        nodes = "".join(
            NODE_CONF.format(**values, node=node, port=port)
            for node, port in zip(NODES, node_ports, strict=True)
        )
        (self._folder / "slurm.conf").write_text(text.format(**values) + nodes)
        database = self._folder / "slurmdbd.conf"
        database.touch(mode=0o600)  # slurmdbd insists
        database.write_text(SLURMDBD_CONF.format(**values))
        gpus = [self._make_gpus(node) for node in NODES]
        (self._folder / "gres.conf").write_text("\n".join(gpus) + "\n")

    def _make_gpus(self, node: str) -> str:
        """The line of gres.conf about a node, whose GPUs are further names of /dev/null.

        slurmd refuses anything but character devices.
        """
        for number in range(GPUS_PER_NODE):
            device = self._folder / f"{node}.nvidia{number}"
            os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        last = GPUS_PER_NODE - 1
        return f"NodeName={node} Name=gpu File={self._folder}/{node}.nvidia[0-{last}]"

    def _start_munged(self) -> None:
        key = self._folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        place = f"--socket={self._folder}/munge.socket"
        files = [f"--{name}-file={self._folder}/munge.{name}" for name in ("key", "pid", "seed")]
        self._start_daemon(
            "munged",
            ["munged", "--foreground", place, *files],
            lambda: self._call("munge", "--no-input", place).returncode == 0,
        )

    def _start_database(self, port: int) -> None:
        """MariaDB, open to everyone on this machine: there is nothing in it but test jobs."""
        data = f"--datadir={self._folder}/mariadb"
        self.run("mariadb-install-db", "--no-defaults", "--user=root", data, "--skip-test-db")
        self._start_daemon(
            "mariadbd",
            [
                *("mariadbd", "--no-defaults", "--user=root", data, "--skip-grant-tables"),
                *("--bind-address=127.0.0.1", f"--port={port}"),
                f"--socket={self._folder}/mariadb.socket",
                f"--pid-file={self._folder}/mariadb.pid",
            ],
            lambda: _is_open(port),
        )

    def _start_slurmdbd(self) -> None:
        self._start_daemon(
            "slurmdbd",
            ["slurmdbd", "-D"],
            lambda: self._call("sacctmgr", "list", "cluster").returncode == 0,
        )

    def _start_slurmctld(self) -> None:
        self._start_daemon(
            "slurmctld",
            ["slurmctld", "-D"],
            lambda: "is UP" in self._call("scontrol", "ping").stdout,
        )


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Return as soon as something is so; TimeoutError that names it after two minutes."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE_S} s for {what}")
        time.sleep(POLL_S)


def _free_ports() -> list[int]:
    """For slurmctld, MariaDB, slurmdbd and each node."""
    candidates = random.sample(PORTS, len(PORTS))
    free = (port for port in candidates if not _is_open(port))
    return list(itertools.islice(free, 3 + len(NODES)))


def _is_open(port: int) -> bool:
    """Whether somebody answers on a port of this machine."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
