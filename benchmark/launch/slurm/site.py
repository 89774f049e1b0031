"""The options for sbatch and the set-up of jobs, from the command line and a site's slurm.yaml."""

import argparse
import os
import sys
from pathlib import Path
from typing import NamedTuple

from recipe.configs import read_tree
from trainers.prompting.errors import check_name, need

from ...cli import Parser, from_one
from ...protocols.configs import ROOT

FILE = "slurm.yaml"

# Options of sbatch that the launcher sets itself.
RESERVED = (
    "--array", "-a", "--dependency", "-d", "--job-name", "-J", "--output", "-o", "--wait", "-W",
    "--wrap",
)  # fmt: skip


class Site(NamedTuple):
    """The settings of jobs; each field is also a key of slurm.yaml."""

    options: list[str]  # for sbatch: lines of the script
    setup: list[str]  # lines of bash at the start of a job, such as `module load cuda`
    python: str


def build_parser() -> Parser:
    """Return a parser of the launcher's arguments for Slurm, without --help."""
    parser = Parser(add_help=False)
    add = parser.add_argument_group("Slurm").add_argument
    add(
        "--slurm", nargs="?", const="", metavar="OPTIONS",
        help="submit the runs as Slurm job arrays, with these options for sbatch (in one argument) "
        f"and those in {FILE}",
    )  # fmt: skip
    add(
        "--per-job", type=from_one, default=1, metavar="N",
        help="trainings that share a job, each with its tests (default: 1)",
    )  # fmt: skip
    add("--wait", action="store_true", help="wait until the jobs have ended, and print the table")
    return parser


def join_slurm_words(argv: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """Turn `--slurm VALUE` into `--slurm=VALUE`, since VALUE looks like an option."""
    options = {"-h", "--help"}
    options.update(f"--{name.replace('_', '-')}" for name in vars(parser.parse_args([])))
    words: list[str] = []
    for word in argv:
        is_option = " " not in word and word.partition("=")[0] in options
        if words and words[-1] == "--slurm" and word.startswith("-") and not is_option:
            words[-1] = f"--slurm={word}"
        else:
            words.append(word)
    return words


def read_site(options: str) -> Site:
    """Combine the site's defaults with options of the command line, which come last and so win."""
    user = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    path = next((p for p in (ROOT / FILE, user / "align" / FILE) if p.is_file()), None)
    lines_of: dict[str, list[str]] = {key: [] for key in Site._fields}
    for key, value in (read_tree(path) if path else {}).items():
        lines = value.splitlines() if isinstance(value, str) else value or []
        lines_of[check_name(f"key of {path}", key, Site._fields)] = lines
    lines_of["options"] += options.splitlines()
    for word in " ".join(lines_of["options"]).split():
        name = word.partition("=")[0]
        need(name not in RESERVED, f"--slurm: {name} cannot be given: the launcher sets it")
    python = os.path.expanduser(lines_of["python"][0]) if lines_of["python"] else sys.executable
    return Site(lines_of["options"], lines_of["setup"], python)
