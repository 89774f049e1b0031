"""Short trainings of a method in processes of their own: killed and resumed, in half precision.

`python -m benchmark.inspect.processes STEP ...` runs train.py, and kills itself before that step.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainers.prompting.checkpoint.files import checkpoint_file, saved_epochs
from trainers.prompting.checkpoint.saved import Saved
from trainers.prompting.errors import UserError

from ..protocols.configs import ROOT


class Trainings:
    """Trainings in processes, some of them at the same time.

    `arguments` are those of train.py, without the output folder; `precision` is the key of the
    precision, of which `amp` is bfloat16 on the CPU. The killed training does not do its `last`
    step.
    """

    def __init__(self, arguments: list[str], folder: Path, precision: str, last: int):
        self.arguments, self.folder, self.last = arguments, folder, last
        self.half = self._start("half", precision, "amp")
        self.whole, self.killed = self._start("whole"), self._start("killed", kill=True)

    def _start(self, name: str, *pairs: str, kill: bool = False) -> subprocess.Popen:
        program = ["-m", __name__, str(self.last)] if kill else ["train.py"]
        output = ["--output-dir", str(self.folder / name)]
        return subprocess.Popen(
            [sys.executable, *program, *output, *self.arguments, *pairs],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def close(self) -> None:
        """End the processes that are still running."""
        for process in (self.half, self.whole, self.killed):
            process.kill()
            process.wait()

    def check_resumed(self, _: Any) -> None:
        """A training that is killed and resumed ends with the same bits."""
        _finish(self.whole, "The training")
        self.killed.communicate()
        self.killed = self._start("killed")
        _finish(self.killed, "The training that resumes")
        whole, other = (_last(self.folder / name) for name in ("whole", "killed"))
        if apart := sorted(key for key in whole if not _same(whole[key], other.get(key))):
            raise UserError(
                f"A training that was killed and resumed ends with other values of {apart[0]}: "
                "keep what steps change in parameters or buffers, and draw random numbers from "
                "PyTorch, NumPy or Python"
            )

    def check_half(self, _: Any) -> None:
        """It trains in half precision."""
        _finish(self.half, "With PREC amp, the training")


def _finish(process: subprocess.Popen, what: str) -> None:
    lines = process.communicate()[1].strip().splitlines()
    if process.returncode:
        raise UserError(f"{what} ends with: {lines[-1] if lines else process.returncode}")


def _last(output: Path) -> dict[str, Any]:
    """Return the values in the last checkpoint of a run, by dotted name."""
    (folder,) = {path.parent for path in output.glob("*/model.pth.tar-*")}
    saved = Saved.read(checkpoint_file(str(folder), saved_epochs(str(folder))[-1]))
    return dict(_leaves(saved.outcome()))


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping | list | tuple):
        pairs = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        for key, value in pairs:
            yield from _leaves(value, f"{prefix}.{key}".lstrip("."))
    else:
        yield prefix, tree


def _same(one: Any, other: Any) -> bool:
    import torch

    if torch.is_tensor(one) and torch.is_tensor(other):
        return torch.equal(one, other)
    return type(one) is type(other) and str(one) == str(other)


def main(argv: list[str]) -> int:
    """Run train.py with the arguments after the first, the number of the step, from 1."""
    import train
    from trainers.prompting.trainer import trainer

    last, do_step, seen = int(argv[0]), trainer.training_step, 0

    def count_step(*given):
        nonlocal seen
        seen += 1
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return do_step(*given)

    trainer.training_step = count_step  # type: ignore[assignment]
    return train.run(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
