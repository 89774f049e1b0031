"""Labels by hand for images that `advise --next` has picked, and another call of `advise`."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from ..advice.images import CALL, NEXT
from ..errors import check_name, need
from ..storage.files import hold_lock, read_json
from ..storage.tables import Row, read_images
from .commands.advise import write_table

PICKED = "20"  # images to label after training again, unless the earlier call says how many
AGAIN = "repeat `advise` with --next"


class Labels:
    """The table of images to label in an output of `advise`; each label is written at once.

    Attributes:
        classes: names.
        training: whether `train` runs; log: its lines.
    """

    def __init__(self, folder: Path):
        """Read the call of `advise` in a folder; raises UserError if there is none."""
        self.folder, self.table = folder, folder / NEXT
        call = read_json(folder / CALL, AGAIN)
        kinds = {"classes": list, "source": str, "options": dict}
        sound = all(isinstance(call.get(key), kind) for key, kind in kinds.items())
        need(sound, f"'{folder / CALL}' is damaged: {AGAIN}")
        self.classes: list[str] = call["classes"]
        self._source, self._options = call["source"], call["options"]
        self.training = False
        self.log: list[str] = []
        self._number: dict[str, int] = {}  # path -> index, which never changes
        self._before: list[tuple[str, str]] = []  # paths and labels that `undo` writes
        self._lock = threading.Lock()

    def state(self) -> dict[str, Any]:
        """Return what the page shows: `waiting` are the indices of images without a label."""
        with self._lock:
            rows = self._rows() if self.table.exists() or not self.folder.exists() else []
            waiting = [self._number[row.path] for row in rows if not row.label]
            return {
                "classes": self.classes, "waiting": waiting, "done": len(rows) - len(waiting),
                "undo": bool(self._before), "training": self.training, "log": self.log,
            }  # fmt: skip

    def path(self, index: int) -> str:
        """Return the file of an image; raises UserError if no image has this index."""
        need(index < len(self._number), f"No image has the index {index}: load the page again")
        return [*self._number][index]

    def label(self, index: int, name: str) -> None:
        """Write the label of an image.

        Raises:
            UserError: there is no such image or class, or another call is writing.
        """
        path = self.path(index)
        check_name("class", name, self.classes)
        with self._lock:
            self._before.append((path, self._write(path, name)))

    def undo(self) -> int:
        """Take the last label back and return the index of its image; raises as `label`."""
        with self._lock:
            need(self._before, "No label is left to take back")
            self._write(*self._before[-1])
            return self._number[self._before.pop()[0]]

    def train(self) -> None:
        """Call `advise` again, in a process of its own, and wait for it.

        Raises:
            UserError: the folder is gone.
            OSError: as the system says.
        """
        need(self.folder.is_dir(), f"'{self.folder}' is gone, and its labels with it: {AGAIN}")
        package = __package__.rpartition(".")[0]
        code = f"import sys; from {package}.use.commands import main; sys.exit(main())"
        options = {"next": PICKED} | {key: x for key, x in self._options.items() if x}
        options["output"] = os.path.abspath(self.folder)
        words = [f"--{key}" if x is True else f"--{key}={x}" for key, x in options.items()]
        path = os.pathsep.join(map(os.path.abspath, sys.path))
        with subprocess.Popen(
            [sys.executable, "-u", "-c", code, "advise", *words, "--", self._source],
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
        self._before.clear()

    def _rows(self) -> list[Row]:
        """Return the rows of the table, and number images that are new in it."""
        rows = read_images(self.table, unlabelled=True, moved=True)
        for row in rows:
            self._number.setdefault(row.path, len(self._number))
        return rows

    def _write(self, path: str, name: str) -> str:
        """Write the label of an image and return the one before; raises as `label`."""
        need(self.table.is_file(), f"'{self.table}' is gone, and no label can be written: {AGAIN}")
        with hold_lock(self.folder / ".lock") as free:
            need(free, f"'{self.folder}' is being written: label when training has ended")
            rows = self._rows()
            before = {row.path: row.label for row in rows}
            need(path in before, f"'{path}' is no longer in '{self.table}': load the page again")
            table = (before | {path: name}).items()
            write_table(self.table, ("path", "label"), table)
            return before[path]
