"""Kills runs of train.py and protocols at many points, and reruns them.

Every rerun must end with the same bits as a run that was not killed. Usage:

    python tests/faults/kills.py FOLDER [--runs 48] [--protocols 10]

A run is killed just before it opens, renames or removes a file; a file that is about to be renamed
is truncated to half its length. A protocol is killed after a time, every second time together with
the training that it has started. Runs are forks of this process, which has imported what they need.
"""

# ruff: noqa: E402 (sys.path is set before the imports that need it)
import argparse
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # a process with threads cannot be forked
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "dassl-lite"), str(ROOT / "tests")]

import numpy as np
import tiny
import torch

import train

PROMPTSRC = [
    "TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION",
    "2",
    "TRAINER.PROMPTSRC.PROMPT_DEPTH_TEXT",
    "2",
]
MMRL = ["TRAINER.MMRL.REP_LAYERS", "[2,3,4]"]
# PromptSRC has a state besides its prompts, TipAdapterF and CLAP have support, NLPrompt plans its
# steps, others have additions
METHODS = {"ALIGN": [], "PromptSRC": PROMPTSRC, "MMRL": MMRL}
METHODS |= {
    name: []
    for name in ("CLIPLoRA", "CLIPSVD", "GalLoP", "TipAdapterF", "CLAP", "ProGrad", "NLPrompt")
}
EVENTS = ("open", "os.rename", "os.remove")
TIMES = ("train_seconds", "test_seconds", "peak_memory_mib", "versions", "git")
EPOCHS = 3
PROTOCOL = ["base2new", "emoji", "--trainers", "CoOp", "--seeds", "1", "--shots", "1"]
PROTOCOL += ["--jobs", "1", "DATALOADER.NUM_WORKERS", "0", "OPTIM.MAX_EPOCH", str(EPOCHS)]


# ---------------------------------------------------------------------- one run


def forked(work) -> int:
    """Run a function in a forked process; return its exit code, or minus the signal's number."""
    pid = os.fork()
    if not pid:
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), 1)
        os._exit(work())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def watched(arguments: list[str], folder: Path, last: int | None) -> int:
    """Run train.py, killed at event number `last`; without it, write the number of events."""
    seen = 0

    def hook(name, args):
        nonlocal seen
        if name not in EVENTS or not str(args[0]).startswith(str(folder)):
            return
        seen += 1
        if seen == last:
            if name == "os.rename":
                os.truncate(args[0], os.path.getsize(args[0]) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    code = train.run(arguments)
    (folder / "events").write_text(str(seen))
    return code


def kill_runs(folder: Path, points: int) -> list[str]:
    """Kill runs at so many points, and rerun them; return the problems."""
    problems, expected, events = [], {}, {}
    forked(lambda: train.run(tiny.arguments(folder, "ZeroshotCLIP")))  # makes the images
    for method, pairs in METHODS.items():
        arguments = [*tiny.arguments(folder, method, folder / method, EPOCHS), *pairs]
        code = forked(lambda arguments=arguments: watched(arguments, folder, None))
        assert code == 0, f"{method}, without a kill, ends with {code}"
        expected[method] = fingerprint(folder / method)
        events[method] = int((folder / "events").read_text())
    for i in range(points):
        method = list(METHODS)[i % len(METHODS)]
        last = 1 + round(i * (events[method] - 1) / max(points - 1, 1))
        output = folder / f"run{i}"
        arguments = [*tiny.arguments(folder, method, output, EPOCHS), *METHODS[method]]
        code = forked(lambda arguments=arguments, last=last: watched(arguments, folder, last))
        assert code == -signal.SIGKILL, f"{method} is not killed at {last}, but ends with {code}"
        code = forked(lambda arguments=arguments: train.run(arguments))
        where = f"{method}, killed at event {last} of {events[method]}"
        if code:
            problems.append(f"{where}: the same command ends with {code}")
        elif (found := fingerprint(output)) != expected[method]:
            problems.append(f"{where}: other bits ({differing(found, expected[method])})")
    return problems


def fingerprint(folder: Path) -> dict[str, str]:
    """Return a run's results, predictions and last checkpoint as text or hashes, by name."""
    results = json.loads((folder / "results.json").read_text())
    found = {key: repr(value) for key, value in results.items() if key not in TIMES}
    with np.load(folder / "predictions.npz") as arrays:
        found |= {name: digest(arrays[name].tobytes()) for name in arrays.files}
    for path in folder.glob(f"*/model.pth.tar-{EPOCHS}"):
        state = torch.load(path, weights_only=True)
        for part in ("state_dict", "optimizer", "method"):
            for name, value in leaves(state[part]):
                whole = value.numpy().tobytes() if torch.is_tensor(value) else repr(value).encode()
                found[f"{part}{name}"] = digest(whole)
    left = [path.name for path in folder.rglob("*.tmp")]
    return found | {"temporary files": repr(left)}


def leaves(tree, name=""):
    if isinstance(tree, dict | list):
        pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, value in pairs:
            yield from leaves(value, f"{name}.{key}")
    else:
        yield name, tree


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def differing(found: dict, expected: dict) -> str:
    names = sorted(k for k in found.keys() | expected.keys() if found.get(k) != expected.get(k))
    return ", ".join(names[:3])


# ---------------------------------------------------------------------- a protocol


def trainings_of(launcher: int) -> list[int]:
    """Return the process ids of the trainings of a launcher: the children of its fork server."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    return [pid for pid, parent in parents.items() if parents.get(parent) == launcher]


def protocol(output: Path, seconds: float = 600, together: bool = False) -> int | None:
    """Run the protocol; return its exit code, or None if it was killed after some seconds."""
    command = [sys.executable, "-m", "benchmark", *PROTOCOL, "--output", output]
    with open(f"{output}.txt", "ab") as said:
        process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(seconds)
        trainings = trainings_of(process.pid)
        process.kill()
        process.wait()
        for pid in trainings * together:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return None


def kill_protocols(folder: Path, points: int) -> list[str]:
    """Kill protocols at so many points, and rerun them; return the problems."""
    problems = []
    started = time.monotonic()
    code = protocol(folder / "whole")
    assert code == 0, f"the protocol, without a kill, ends with {code}"
    seconds = time.monotonic() - started
    expected = fingerprints(folder / "whole")
    for i in range(points):
        output, after = folder / f"protocol{i}", seconds * (i + 0.5) / points
        together = i % 2 == 0
        protocol(output, after, together)
        where = f"protocol, killed after {after:.1f} of {seconds:.1f} s"
        where += " with its training" * together
        code = protocol(output)
        if code:
            problems.append(f"{where}: the same command ends with {code}")
        elif (found := fingerprints(output)) != expected:
            problems.append(f"{where}: other bits ({differing(found, expected)})")
    return problems


def fingerprints(output: Path) -> dict[str, str]:
    """Return the fingerprints of all runs of a protocol."""
    folders = sorted(path.parent for path in output.rglob("results.json"))
    return {
        f"{folder.relative_to(output)} {name}": value
        for folder in folders
        for name, value in fingerprint(folder).items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=48, help="points in a run of train.py")
    parser.add_argument("--protocols", type=int, default=10, help="points in a protocol")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    problems = []
    if args.runs:
        problems += kill_runs(args.folder, args.runs)
    if args.protocols:
        problems += kill_protocols(args.folder, args.protocols)
    print("\n".join(problems))
    print(f"{args.runs + args.protocols} kills, {len(problems)} of them with other results")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
