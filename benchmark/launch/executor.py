"""What does runs: on this machine (`Local`), or as jobs of a cluster (`Slurm`)."""

from typing import Protocol

from ..report.results import Outcome
from .engine import Engine
from .progress import Progress


class Executor(Protocol):
    """Does all that an engine has to do; the engine keeps the books."""

    @property
    def headline(self) -> str:
        """How runs are done, in a few words."""

    def execute(self, engine: Engine, progress: Progress) -> list[Outcome]:
        """Do what is to be done, in an order in which nothing comes before what it needs.

        Returns:
            The outcomes of all runs, in their order.

        Raises:
            UserError: it cannot be done here.
            KeyboardInterrupt: as ever.
        """
