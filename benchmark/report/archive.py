"""Pack the finished runs of an output folder into one archive to hand on.

It holds records, predictions, the environment and the commands: no images, no host names and no
absolute paths. `received` reads it.
"""

import importlib.metadata
import io
import json
import os
import platform
import re
import shlex
import socket
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

import numpy as np
from tqdm import tqdm

from trainers.prompting.errors import UserError
from trainers.prompting.record.predictions import NAME as PREDICTIONS
from trainers.prompting.record.predictions import read_predictions

from ..cli import Parser, write_output
from ..protocols import PROTOCOLS
from ..protocols.configs import ROOT
from ..protocols.places import outputs_below
from ..records import COMMAND, RESULTS, Outcome, console_lines, from_folder, value_at

SUFFIX = ".tar.xz"
RUNS, ENVIRONMENT, COMMANDS = "runs", "environment.json", "commands.txt"
LEFT_OUT = "an archive has no predictions over base and new classes together; ask for the runs"
PLACE = re.compile(r"(?<![\w./:~-])(?:[A-Za-z]:[\\/]|~?/)[^\s'\":,;]*")  # a path inside a text


def main(argv: list[str]) -> None:
    """Run `python -m benchmark archive OUTPUT`."""
    parser = Parser(prog="python -m benchmark archive", description=__doc__)
    parser.add_argument(
        "output", type=Path, nargs="?", default=Path("output"),
        help="folder that contains runs of protocols (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--to", type=Path, metavar="FILE", help=f"the archive (default: OUTPUT/results{SUFFIX})"
    )
    args = parser.parse_args(argv)
    output = args.output.absolute()
    file = args.to or output / f"results{SUFFIX}"
    if not file.name.endswith(SUFFIX):
        raise UserError(f"--to is '{file}' but must end in {SUFFIX}")
    outcomes = [
        from_folder(run)
        for folder in outputs_below(output)
        for protocol in PROTOCOLS.values()
        for run in protocol.on_disk(folder)
    ]
    done = {outcome.run.folder: outcome for outcome in outcomes if outcome.result}
    if not done:
        raise UserError(f"no finished runs in '{output}': check the path, or run a protocol first")
    content = pack(output, [done[folder] for folder in done])
    write_output(file, content)
    unfinished = len({outcome.run.folder for outcome in outcomes}) - len(done)
    more = f"; left out because they are not finished: {unfinished}" if unfinished else ""
    print(f"{file}: {len(done)} runs, {tqdm.format_sizeof(len(content), 'B')}{more}")


def pack(output: Path, outcomes: list[Outcome]) -> bytes:
    """Return the archive of finished runs; raises UserError if predictions cannot be read."""
    of_sets = sorted(
        outcomes,
        key=lambda outcome: (outcome.run.dataset, outcome.run.subsample, outcome.run.folder),
    )
    clean, commands = Cleaner(output), []
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz") as archive:

        def add(name: str, content: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))

        add(ENVIRONMENT, clean.json(machine_facts()))
        for outcome in of_sets:  # runs on the same images together: their names are stored once
            folder = outcome.run.folder
            root = str(value_at((outcome.result or {}).get("config"), "DATASET.ROOT"))
            if os.path.isabs(root) and root.strip("/"):
                clean.places[root] = "DATA"
            place = f"{RUNS}/{folder.relative_to(output).as_posix()}"
            command = next((x for x in console_lines(outcome.run) if x.startswith(COMMAND)), "")
            commands += [clean.command(command.removeprefix(COMMAND))] * bool(command)
            arrays = read_predictions(folder)
            left_out = {"joint_note": LEFT_OUT} if arrays and "joint_label" in arrays else {}
            add(f"{place}/{RESULTS}", clean.json((outcome.result or {}) | left_out))
            if arrays:
                add(f"{place}/{PREDICTIONS}", slim(arrays))
        add(COMMANDS, "".join(f"{line}\n" for line in commands).encode())
    return stream.getvalue()


def slim(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return predictions as a file with only the first class and its probability of each image."""
    columns = {name: arrays[name] for name in ("image", "label", "prediction")}
    columns |= {name: arrays[name][:, :1] for name in ("top", "probability")}
    columns["label_log_probability"] = arrays["label_log_probability"].astype("float16")
    stream = io.BytesIO()
    np.savez(stream, **columns)  # type: ignore[arg-type]  # not compressed: the archive is
    return stream.getvalue()


def machine_facts() -> dict[str, Any]:
    """Return what the machine and its packages are, without its name."""
    ask = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        answer = ""
    packages = {dist.name: dist.version for dist in importlib.metadata.distributions() if dist.name}
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "gpus": answer.splitlines(),
        "packages": dict(sorted(packages.items())),
    }


class Cleaner:
    """Takes host names and absolute paths out of texts.

    Attributes:
        places: what stands for a folder, by its path; other paths keep only their last name.
    """

    def __init__(self, output: Path):
        self.places = {str(output): "OUTPUT", str(ROOT): "."}
        host = socket.gethostname() or "localhost"
        names = "|".join(map(re.escape, (host, host.partition(".")[0])))
        self.host = re.compile(rf"\b(?:{names})\b")

    def __call__(self, text: str) -> str:
        """Return the text without them."""
        if "/" not in text and "\\" not in text:
            return text
        for path in sorted(self.places, key=len, reverse=True):  # the innermost first
            text = re.sub(rf"(?<![\w./-]){re.escape(path)}(?=/|\s|$)", self.places[path], text)
        absolute = text.startswith(("/", "~/")) or PureWindowsPath(text).drive
        if absolute and "\n" not in text:  # it may have spaces
            text = _last(text)
        return self.host.sub("HOST", PLACE.sub(lambda match: _last(match[0]), text))

    def command(self, line: str) -> str:
        """Return a command line without them."""
        try:
            return shlex.join(map(self, shlex.split(line)))
        except ValueError:  # not of a shell
            return self(line)

    def tree(self, value: Any) -> Any:
        """Return a value of JSON without them, in keys and values."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, dict):
            return {self(key): self.tree(item) for key, item in value.items()}
        return [*map(self.tree, value)] if isinstance(value, Iterable) else value

    def json(self, value: Any) -> bytes:
        """Return a value without them, as JSON."""
        return (json.dumps(self.tree(value), indent=1) + "\n").encode()


def _last(path: str) -> str:
    kind = PureWindowsPath if "\\" in path else PurePath
    return kind(path).name
