"""Lines within the width of a terminal."""

import io
import os
import sys

import pytest

import train
from trainers.prompting.console import Folded, columns, fold, fold_lines
from trainers.prompting.use.commands import main

PATH = "/a/folder/whose/name/is/longer/than/the/line"


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of 30 columns."""
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setenv("COLUMNS", "30")
    return stream


@pytest.mark.parametrize(
    "text, shown",
    [
        ("short", "short"),
        ("", ""),
        ("one line of words\n", "one line of\n  words\n"),
        ("a b c\nd e f g h i j k", "a b c\nd e f g h i j\n  k"),
        (f"see '{PATH}' there", f"see\n  '{PATH}'\n  there"),
        ("run `pip install it` to go", "run\n  `pip install it`\n  to go"),
        ("ant    3 images of it", "ant    3 images of it"),
        ("    --model-dir a/b c/d", "    --model-dir a/b c/d"),
        ("| a | b | c | d | e |", "| a | b | c | d | e |"),
        ("cd '/a/long folder' && \\", "cd '/a/long folder' && \\"),
        ("\r10% of a long bar of progress", "\r10% of a long bar of progress"),
    ],
)
def test_fold(text, shown):
    assert fold(text, 13) == shown
    assert fold(text, 0) == text


def test_the_width_is_that_of_columns_or_of_the_terminal(terminal, monkeypatch):
    assert columns(terminal) == 29 and columns(io.StringIO()) == 0
    terminal.fileno = lambda: 2
    with monkeypatch.context() as patch:  # pytest reads it, too
        patch.setattr("os.get_terminal_size", lambda of: os.terminal_size((200, 40)))
        for width, line in ((" ", 79), ("0", 199), ("30", 29)):
            patch.setenv("COLUMNS", width)
            assert columns(terminal) == line
    Folded(terminal).write("one line that has more than thirty characters\n")
    assert terminal.getvalue() == "one line that has more than\n  thirty characters\n"


def test_streams_are_folded_once_and_keep_their_other_methods(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal)
    fold_lines("stderr")
    fold_lines("stderr")
    assert sys.stderr.stream is terminal and sys.stderr.isatty()
    print("one line that has more than thirty characters", file=sys.stderr)
    assert len(terminal.getvalue().splitlines()) == 2
    monkeypatch.setattr(sys, "stdout", None)
    fold_lines("stdout")
    assert sys.stdout is None


@pytest.mark.parametrize("call", [main, train.run], ids=["promptedclip", "train.py"])
def test_errors_fit_the_terminal(call, terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal)
    words = ["info", "--model-dir", "no/run"] if call is main else ["--trainer", "CoOp"]
    assert call(words) == 2
    lines = terminal.getvalue().splitlines()
    assert len(lines) > 1 and max(map(len, lines)) < 45  # a path is not divided


def test_help_says_what_needs_a_checkout(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert "reports need a checkout of the project:\n  `python -m benchmark --help`" in said
    assert max(map(len, said.splitlines())) < 80
