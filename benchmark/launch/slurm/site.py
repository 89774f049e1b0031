"""The options for sbatch and the set-up of jobs, from the command line and a site's slurm.yaml."""

import argparse
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from recipe.configs import read_tree
from trainers.prompting.errors import UserError, check_name

from ...cli import Parser, from_one
from ...protocols.configs import ROOT

FILE = "slurm.yaml"
KEYS = ("options", "setup", "environment", "per_job", "at_once")

# Options of sbatch that the launcher sets itself, and what sets them.
RESERVED = {
    "--array": "the launcher (by --per-job and --at-once)",
    "-a": "the launcher (by --per-job and --at-once)",
    "--dependency": "the protocol itself",
    "-d": "the protocol itself",
    "--job-name": "the launcher itself",
    "-J": "the launcher itself",
    "--output": "the launcher itself",
    "-o": "the launcher itself",
    "--wait": "the launcher's --wait",
    "-W": "the launcher's --wait",
    "--wrap": "the protocol itself",
}


@dataclass(frozen=True)
class Site:
    """The settings for submitting jobs.

    Args:
        options: options for sbatch, as words.
        setup: lines of bash at the start of a job, such as `module load cuda`.
        environment: folder of a virtual environment to activate; without one, jobs use this
            Python.
        per_job: the number of runs that share a job.
        at_once: the most tasks of an array that run at once; None leaves that to Slurm.
    """

    options: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    environment: str = ""
    per_job: int = 1
    at_once: int | None = None


def build_parser() -> Parser:
    """Return a parser of the launcher's arguments for Slurm, without --help."""
    parser = Parser(add_help=False)
    add = parser.add_argument_group("Slurm").add_argument
    add(
        "--slurm",
        nargs="?",
        const="",
        metavar="OPTIONS",
        help="submit the runs as Slurm job arrays, with these options for sbatch (in one argument) "
        f"and those in {FILE}",
    )
    add(
        "--per-job", type=from_one, metavar="N", help="number of runs that share a job (default: 1)"
    )
    add("--at-once", type=from_one, metavar="K", help="most tasks of an array that run at once")
    add("--wait", action="store_true", help="wait for the jobs, show progress, print the table")
    return parser


def joined(argv: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """Turn `--slurm VALUE` into `--slurm=VALUE`, since VALUE looks like an option."""
    known = {"-h", "--help"}
    known.update(f"--{name.replace('_', '-')}" for name in vars(parser.parse_args([])))
    words: list[str] = []
    for word in argv:
        own = " " not in word and word.partition("=")[0] in known
        if words and words[-1] == "--slurm" and word.startswith("-") and not own:
            words[-1] = f"--slurm={word}"
        else:
            words.append(word)
    return words


def site_file() -> Path | None:
    """Return the file of the site's defaults: next to train.py, or in the user's configuration."""
    user = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return next((p for p in (ROOT / FILE, user / "align" / FILE) if p.is_file()), None)


def read_site(options: str, per_job: int | None, at_once: int | None) -> Site:
    """Combine the site's defaults with the command line, which comes last and so wins.

    Raises:
        UserError: the file or an option is invalid.
    """
    path = site_file()
    tree = read_tree(path) if path else {}
    for key in tree:
        check_name(f"key of {path}", key, KEYS)
    ours = [word for line in _lines(tree, "options", path) for word in _split(line, path)]
    site = Site(
        options=(*ours, *_split(options, "--slurm")),
        setup=tuple(_lines(tree, "setup", path)),
        environment=os.path.expanduser(str(tree.get("environment") or "")),
        per_job=per_job or _number(tree, "per_job", path) or 1,
        at_once=at_once or _number(tree, "at_once", path),
    )
    for word in site.options:
        name = word.partition("=")[0]
        if name in RESERVED:
            raise UserError(f"--slurm: {name} cannot be given: {RESERVED[name]} sets it")
    return site


def _lines(tree: dict, key: str, path: Path | None) -> list[str]:
    value = tree.get(key) or []
    value = value.splitlines() if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
        raise UserError(f"{path}: '{key}' must be a line of text or a list of such lines")
    return value


def _number(tree: dict, key: str, path: Path | None) -> int | None:
    value = tree.get(key)
    try:
        return None if value is None else from_one(str(value))
    except argparse.ArgumentTypeError:
        raise UserError(
            f"{path}: '{key}' must be a whole number, 1 or more, not '{value}'"
        ) from None


def _split(text: str, source) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"{source}: the options '{text}' cannot be read ({error})") from None
