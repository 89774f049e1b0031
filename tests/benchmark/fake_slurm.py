"""A stand-in for sbatch, squeue and scontrol: a queue in a folder; `work` runs its jobs.

As a program, called by one of these three names, it reads the folder from the variable FAKE_SLURM.
If the folder has a file `refuse`, sbatch prints its message instead of submitting.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

PENDING, RUNNING = "PENDING", "RUNNING"


class FakeSlurm:
    """The queue, for tests that read and change it."""

    def __init__(self, folder: Path):
        self.folder = folder
        bin_folder = folder / "bin"
        bin_folder.mkdir(parents=True)
        for name in ("sbatch", "squeue", "scontrol"):
            program = bin_folder / name
            program.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} "$@"\n')
            program.chmod(0o755)
        self.variables = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "FAKE_SLURM": str(folder)}

    def calls(self) -> list[str]:
        """Return the calls of sbatch until now."""
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def jobs(self) -> list[dict]:
        """Return the job arrays in the queue."""
        return [json.loads(p.read_text()) for p in sorted(self.folder.glob("job*.json"))]

    def keep(self, job: dict) -> None:
        """Write a job to its file."""
        keep(self.folder, job)

    def work(self, environment: dict) -> None:
        """Run all pending tasks in order and remove them from the queue."""
        for job in self.jobs():
            for index in list(job["tasks"]):
                if job["tasks"][index] != PENDING:
                    continue
                variables = {"SLURM_JOB_ID": str(job["id"]), "SLURM_ARRAY_TASK_ID": index}
                log = job["log"].replace("%a", index)
                with open(log, "a") as file:
                    subprocess.run(
                        ["bash", "-c", job["script"]],
                        env=environment | variables,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                    )
                job["tasks"].pop(index)
            self.keep(job)


def option(script: str, name: str) -> str:
    found = re.search(rf"^#SBATCH '?--{name}=([^'\n]*)", script, re.M)
    return found[1] if found else ""


def sbatch(slurm: Path, words: list[str]) -> int:
    path = slurm / "calls"
    number = len(path.read_text().splitlines()) if path.exists() else 0
    with open(path, "a") as file:
        file.write(" ".join(words) + "\n")
    if (slurm / "refuse").exists():
        print((slurm / "refuse").read_text(), file=sys.stderr)
        return 1
    script = Path(words[-1]).read_text()
    last = int(option(script, "array").removeprefix("0-"))
    job = {
        "id": number + 1,
        "name": option(script, "job-name"),
        "log": option(script, "output"),
        "tasks": dict.fromkeys(map(str, range(last + 1)), PENDING),
        "script": script,
    }
    keep(slurm, job)
    print(job["id"])
    return 0


def keep(slurm: Path, job: dict) -> None:
    """Write a job to its file, whole: others read it at any time."""
    half = slurm / f"half{job['id']:04}-{os.getpid()}"
    half.write_text(json.dumps(job))
    half.replace(slurm / f"job{job['id']:04}.json")


def squeue(slurm: Path) -> int:
    for path in sorted(slurm.glob("job*.json")):
        job = json.loads(path.read_text())
        for index, state in job["tasks"].items():
            print(f"{job['name']}|{job['id']}|{index}|{state}|Priority")
    return 0


if __name__ == "__main__":
    slurm = Path(os.environ["FAKE_SLURM"])
    command, *words = sys.argv[1:]
    if command == "sbatch":
        sys.exit(sbatch(slurm, words))
    if command == "squeue":
        sys.exit(squeue(slurm))
    most = os.environ.get("FAKE_SLURM_MOST", "1001")
    print(f"MaxArraySize            = {most}\n   JobState=RUNNING Reason=None")
    with open(slurm / "scontrol", "a") as file:
        file.write(" ".join(words) + "\n")
