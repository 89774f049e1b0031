"""Small programs that measure this code for its documentation: `python -m tools.NAME --help`."""

import sys
from collections.abc import Callable

from trainers.prompting.errors import printable


def run(name: str, main: Callable[[list[str]], int | None]) -> None:
    """Carry out a program as the command line asks; a user's mistake is one sentence."""
    try:
        sys.exit(main(sys.argv[1:]))
    except Exception as error:
        code = getattr(error, "exit_code", None)  # a user's mistake says so, also one of Dassl's
        if code is None:
            raise
        print(f"python -m tools.{name}: {printable(error)}", file=sys.stderr)
        sys.exit(code)
