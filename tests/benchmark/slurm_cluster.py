"""A real Slurm cluster of one node for tests: Debian's slurmctld, slurmd and munge, as root.

`cred_expire` shortens the wait of a requeued job, which is two minutes by default.
"""

import os
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

from checkout import wait_for

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
MUNGE = [Path(place) for place in ("/run/munge", "/var/log/munge", "/var/lib/munge", "/etc/munge")]
MOST_JOBS = 60
MOST_TASKS = 30  # of an array

CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=cred_expire=5
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=2,bf_interval=1
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
KillWait=5
SlurmdTimeout=10
MaxJobCount={most}
MaxArraySize={past}
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Return the reason why no cluster can be started here; None if one can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"no {missing[0]}: apt-get install slurmctld slurmd slurm-client munge"
    return None if os.geteuid() == 0 else "only root can start Slurm's daemons"


class Cluster:
    """The daemons of a cluster, which run from `start` to `stop`."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("state", "spool"):
            (folder / name).mkdir(parents=True)
        self.conf = folder / "slurm.conf"
        self.variables = {"SLURM_CONF": str(self.conf)}
        self._daemons: dict[str, subprocess.Popen] = {}

    def start(self) -> None:
        controller, node = free_ports(2)
        names = {"host": socket.gethostname().partition(".")[0], "cores": os.cpu_count()}
        names |= {"folder": self.folder, "controller": controller, "node": node, "most": MOST_JOBS}
        names |= {"past": MOST_TASKS + 1}
        self.conf.write_text(CONF.format(**names))
        self._start_munge()
        self.start_daemon("slurmctld")
        wait_for(lambda: "UP" in self.ask("scontrol", "ping"))
        self.start_daemon("slurmd")
        wait_for(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%T"))

    def _start_munge(self) -> None:
        if subprocess.run("munge -n | unmunge", shell=True, capture_output=True).returncode == 0:
            return
        key = MUNGE[-1] / "munge.key"
        for place in MUNGE:
            place.mkdir(exist_ok=True)
        if not key.exists():
            key.write_bytes(os.urandom(1024))
            key.chmod(0o600)
        for path in (*MUNGE, key):
            shutil.chown(path, "munge", "munge")
        words = ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups"]
        self._daemons["munged"] = subprocess.Popen([*words, "munged", "--foreground", "--force"])
        wait_for(lambda: subprocess.run(["munge", "-n"], capture_output=True).returncode == 0)

    def start_daemon(self, name: str) -> None:
        """Start slurmctld or slurmd."""
        with open(self.folder / f"{name}.log", "a") as log:
            words = [name, "-D", "-f", str(self.conf)]
            self._daemons[name] = subprocess.Popen(words, stdout=log, stderr=log)

    def stop_daemon(self, name: str) -> None:
        """Stop a daemon and wait until it has ended."""
        daemon = self._daemons.pop(name)
        daemon.terminate()
        with suppress(subprocess.TimeoutExpired):
            daemon.wait(timeout=20)
        daemon.kill()

    def crash_node(self, pid: int) -> None:
        """Kill slurmd and the processes it started, down to `pid`, as a power cut does."""
        daemon = self._daemons.pop("slurmd")
        daemon.kill()
        daemon.wait()
        chain = [pid]
        while not Path(f"/proc/{chain[-1]}/comm").read_text().startswith("slurmstepd"):
            stat = Path(f"/proc/{chain[-1]}/stat").read_text()
            chain.append(int(stat.rpartition(")")[2].split()[1]))
        for each in reversed(chain):  # a launcher that outlives its training would report it
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        wait_for(lambda: "down" in self.ask("sinfo", "-h", "-o", "%T"))

    def restart_node(self) -> None:
        """Restart slurmd; its jobs keep running."""
        before = self._node_started()
        self.stop_daemon("slurmd")
        self.start_daemon("slurmd")
        wait_for(lambda: self._node_started() not in (before, ""))

    def _node_started(self) -> str:
        words = self.ask("scontrol", "show", "node").split()
        return "".join(word for word in words if word.startswith("SlurmdStartTime="))

    def stop(self) -> None:
        with suppress(AssertionError):  # stop the daemons even if a job does not end
            self.end_jobs()
        for name in reversed(list(self._daemons)):
            self.stop_daemon(name)

    def end_jobs(self) -> None:
        """Cancel all jobs and wait until they have ended."""
        self.ask("scancel", "--me")
        wait_for(lambda: not self.queued())

    def ask(self, *words: str) -> str:
        """Run one of Slurm's commands and return what it prints."""
        environment = os.environ | self.variables
        return subprocess.run(words, env=environment, capture_output=True, text=True).stdout

    def running(self) -> list[str]:
        """Return the tasks that are running."""
        return self.ask("squeue", "--me", "-h", "-r", "-t", "R", "-o", "%F_%K").split()

    def queued(self) -> list[str]:
        """Return the tasks that are pending, running or ending."""
        return self.ask("squeue", "--me", "-h", "-r", "-o", "%F_%K").split()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
