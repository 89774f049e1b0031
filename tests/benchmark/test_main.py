"""Tests of `python -m benchmark` itself: help, and errors before a command starts."""

import re
import sys

import pytest

from benchmark.__main__ import COMMANDS
from benchmark.measure.command import MEASURES
from benchmark.protocols import PROTOCOLS


def test_an_unknown_command_is_refused(checkout):
    refused = checkout.run(sys.executable, "-m", "benchmark", "base2nwe")
    assert refused.returncode == 2
    assert "There is no command 'base2nwe': did you mean 'base2new'?" in refused.stderr


def test_a_missing_requirement_is_named(checkout):
    (checkout.root / "tqdm.py").write_text("raise ModuleNotFoundError(name='tqdm')")
    refused = checkout.separately("base2new", code=2)
    assert "tqdm is missing: `pip install -r requirements.txt`" in refused.stderr


def test_an_interrupted_command_says_so_in_a_line(checkout):
    (checkout.root / "tqdm.py").write_text("raise KeyboardInterrupt")
    interrupted = checkout.separately("base2new", code=130)
    assert interrupted.stderr == "python -m benchmark base2new: interrupted\n"


@pytest.mark.parametrize("command", ["", "report", "measure solver", "info", *PROTOCOLS])
def test_every_command_has_help(checkout, command):
    told = checkout.protocol(*command.split(), "--help").stdout
    assert told.startswith("usage: python -m benchmark")


def test_help_lists_the_commands_in_the_order_of_a_day(checkout):
    told = checkout.protocol("--help").stdout
    names = re.findall(r"^  ([a-z][\w-]+)  +\w", told.partition("\nRuns:\n")[2], re.MULTILINE)
    assert names == [*PROTOCOLS, *COMMANDS] and len(names) == 21
    assert re.findall(r"^(\S.*):$", told.partition("\nRuns:\n")[2], re.MULTILINE) == [
        "Data", "Methods and CLIPs", "Your images",
    ]  # fmt: skip


def test_what_is_measured_is_named_in_its_errors(checkout):
    assert "'sped': did you mean 'speed'?" in checkout.protocol("measure", "sped", code=2).stderr
    told = checkout.protocol("measure", "--help").stdout
    assert all(re.search(rf"^  {name} ", told, re.MULTILINE) for name in MEASURES)
