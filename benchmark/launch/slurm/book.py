"""The book of an output folder: a file that lists the jobs submitted for its runs."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from trainers.prompting.errors import UserError
from trainers.prompting.storage.files import read_file

from .arrays import LOGS, Array, relative
from .commands import Task

BOOK = "book.jsonl"


@dataclass(frozen=True)
class Entry:
    """One run in one job."""

    name: str  # of the job array
    index: int  # of the task
    output: Path
    needs: str | None = None  # folder of the run that it needs, below the output

    @property
    def log(self) -> Path:
        """The file with the output of the job."""
        return self.output / LOGS / f"{self.name}_{self.index}.out"


@dataclass
class Book:
    """The last job of each run, by the folder of the run below the output."""

    output: Path
    entries: dict[str, Entry] = field(default_factory=dict)

    def __post_init__(self):
        try:
            lines = read_file(self.path).decode(errors="replace").splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise UserError(f"{self.path} cannot be read ({error.strerror})", exit_code=1) from None
        for line in lines:
            try:
                self._enter(json.loads(line))
            # a line that was cut off on a full disk, or is from another program
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue

    @property
    def path(self) -> Path:
        """The file, with a line for each job array."""
        return self.output / LOGS / BOOK

    def add(self, name: str, array: Array) -> None:
        """Enter an array that has been submitted.

        Raises:
            OSError: the file cannot be written.
        """
        line = {
            "name": name,
            "tasks": {
                str(index): [relative(run, self.output) for run in runs]
                for index, runs in array.tasks.items()
            },
            "needs": {
                relative(run, self.output): relative(run.needs, self.output)
                for run in array.runs
                if run.needs
            },
        }
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._enter(line)

    def _enter(self, line: dict) -> None:
        for index, folders in line["tasks"].items():
            for folder in folders:
                needs = line["needs"].get(folder)
                self.entries[folder] = Entry(line["name"], int(index), self.output, needs)

    def tasks(self, queue: list[Task]) -> dict[str, Task]:
        """Return the tasks in the queue, including ended ones, by the folder of the run."""
        found = {(task.name, task.index): task for task in queue}
        return {
            folder: found[entry.name, entry.index]
            for folder, entry in self.entries.items()
            if (entry.name, entry.index) in found
        }
