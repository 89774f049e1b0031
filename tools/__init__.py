"""Small programs that measure this code for the documentation: `python -m tools.NAME --help`."""

import sys
from collections.abc import Callable

from trainers.prompting.errors import printable


def run(name: str, main: Callable[[list[str]], int | None]) -> None:
    """Run a program and exit with its code; a user's mistake is reported in one sentence."""
    try:
        sys.exit(main(sys.argv[1:]))
    except Exception as error:
        code = getattr(error, "exit_code", None)  # set for a user's mistake, also in Dassl
        if code is None:
            raise
        print(f"python -m tools.{name}: {printable(error)}", file=sys.stderr)
        sys.exit(code)
