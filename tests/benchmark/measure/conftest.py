"""Fixture: commands of `measure` that are refused."""

import pytest
import torch

from benchmark.__main__ import main


@pytest.fixture
def refusal(monkeypatch, capsys):
    """Return a function that gives what a refused `measure ...` says, in one line."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def call(command, *words):
        try:
            code = main(["measure", command, *map(str, words)])
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        assert code == 2 and not out and err.count("\n") == 1, err
        return err.removeprefix(f"python -m benchmark measure {command}: ")

    return call
