"""Labels by hand for images that `advise --next` has picked, and another call of `advise`."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..advice.images import LABELS, NEXT, with_digest
from ..errors import check_name, need
from ..images.class_folders import NONE
from ..images.tables import add_answers, read_answers
from ..storage.files import CALL, hold_lock, read_json

PICKED = "20"  # images to label after training again, unless the earlier call says how many
AGAIN = "repeat `advise` with --next"
MOST = 1_000  # labellers that are remembered


@dataclass
class Labeller:
    """A tab of the page: the index of the image that it shows, and those that it has labelled."""

    shown: int = -1
    labelled: list[tuple[int, str]] = field(default_factory=list)  # index, label


class Labels:
    """The images to label in an output of `advise`; each label is written at once.

    Attributes:
        classes: names, and NONE.
        training: whether `train` runs; log: its lines.
    """

    def __init__(self, folder: Path):
        """Read the call of `advise` in a folder; raises UserError if there is none."""
        self.folder, self.table = folder, folder / NEXT
        call = read_json(folder / CALL, AGAIN)
        kinds = {"classes": list, "source": str, "options": dict}
        sound = all(isinstance(call.get(key), kind) for key, kind in kinds.items())
        need(sound and call["classes"], f"'{folder / CALL}' is damaged: {AGAIN}")
        self.classes: list[str] = [*call["classes"], NONE]
        self._source, self._options = call["source"], call["options"]
        self.training = False
        self.log: list[str] = []
        self._images: dict[str, str] = {}  # digest -> path; the place is the index
        self._undone: list[str] = []  # digests, which `next.csv` may no longer ask for
        self._labellers: dict[str, Labeller] = {}
        self._lock = threading.Lock()

    def state(self, who: str) -> dict[str, Any]:
        """Return what the page shows a labeller.

        `waiting` are the indices of images without a label; those that others see come last.
        """
        with self._lock:
            given, me = self._read_labels(), self._labeller(who)
            asked = {x.digest: x.path for x in map(with_digest, read_answers(self.table))}
            asked.pop("", None)  # they are gone
            self._images |= asked
            index = {digest: i for i, digest in enumerate(self._images)}
            listed = dict.fromkeys([*asked, *self._undone])
            others = {x.shown for x in self._labellers.values() if x is not me}
            waiting = [index[digest] for digest in listed if not given.get(digest)]
            waiting.sort(key=lambda i: (i in others, i != me.shown))
            me.shown = waiting[0] if waiting else -1
            done = sum(map(bool, given.values()))
            return {
                "classes": self.classes, "waiting": waiting, "done": done,
                "undo": bool(me.labelled), "training": self.training, "log": self.log,
            }  # fmt: skip

    def path(self, index: int, who: str) -> str:
        """Return the file of an image, to show it to a labeller; raises UserError without one."""
        digest = self._digest(index)
        self._labeller(who).shown = index
        return self._images[digest]

    def label(self, index: int, name: str, who: str) -> None:
        """Write the label of an image."""
        digest = self._digest(index)
        check_name("class", name, self.classes)
        with self._writing():
            self._change(digest, "", name)
            self._labeller(who).labelled.append((index, name))

    def undo(self, who: str) -> int:
        """Take the last label of a labeller back, and return its image; raises as `label`."""
        with self._writing():
            labelled = self._labeller(who).labelled
            need(labelled, "No label is left to take back")
            index, name = labelled.pop()
            digest = self._digest(index)
            self._change(digest, name, "")
            self._undone.append(digest)
            return index

    def train(self) -> None:
        """Call `advise` again, in a process of its own, and wait for it.

        Raises:
            OSError: as the system says.
        """
        need(self.folder.is_dir(), f"'{self.folder}' is gone: put it back")
        package = __package__.rpartition(".")[0]
        code = f"import sys; from {package}.use.commands import main; sys.exit(main())"
        options = {"next": PICKED} | {key: x for key, x in self._options.items() if x}
        options["output"] = os.path.abspath(self.folder)
        words = [f"--{key}" if x is True else f"--{key}={x}" for key, x in options.items()]
        path = os.pathsep.join(map(os.path.abspath, sys.path))
        with subprocess.Popen(
            [sys.executable, "-u", "-c", code, "advise", "--page", *words, "--", self._source],
            env=os.environ | {"PYTHONPATH": path}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        ) as process:  # fmt: skip
            failed = False
            for line in process.stdout or ():
                if failed := failed or line.startswith("Traceback"):
                    sys.stderr.write(line)
                else:
                    self.log.append(line.rstrip())
        need(not failed, "Training has failed: the reason is where the page was started")

    def _labeller(self, who: str) -> Labeller:
        if who not in self._labellers and len(self._labellers) >= MOST:
            self._labellers.pop(next(iter(self._labellers)))
        return self._labellers.setdefault(who, Labeller())

    def _digest(self, index: int) -> str:
        need(index < len(self._images), f"No image has the index {index}: load the page again")
        return [*self._images][index]

    def _read_labels(self) -> dict[str, str]:
        """Return the labels by hand by digest, empty if taken back; raises UserError."""
        need(self.folder.is_dir(), f"'{self.folder}' is gone: put it back")
        return {x.digest: x.label for x in map(with_digest, read_answers(self.folder / LABELS))}

    @contextmanager
    def _writing(self) -> Iterator[None]:
        need(self.folder.is_dir(), f"'{self.folder}' is gone: put it back")
        with self._lock, hold_lock(self.folder / ".lock") as free:
            need(free, f"'{self.folder}' is being written: label when training has ended")
            yield

    def _change(self, digest: str, before: str, name: str) -> None:
        """Write a label, unless the image has it; raises UserError if its label is not `before`."""
        now = self._read_labels().get(digest, "")
        what = f"is '{now}' now" if now else "has no label now"
        need(now in (before, name), f"This image was changed elsewhere: it {what}")
        if now != name:
            add_answers(self.folder / LABELS, [(self._images[digest], name, digest)])
