"""The snippets of all pages, and of tables of commands, can be pasted; the notebook runs.

Each bash block runs in a folder like a checkout, with programs that only write down how they are
called. What they were called with is then given to the real parsers, which start nothing.
"""

import argparse
import json
import os
import pydoc
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from paths import ROOT

import train
from benchmark.__main__ import main
from benchmark.launch.arguments import build_parser, parse
from benchmark.launch.command import plan_runs
from benchmark.launch.engine import command
from benchmark.launch.slurm import site
from benchmark.protocols import PROTOCOLS

# tests/test_extending.py runs the commands of extending.md
PAGES = ["README.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))
                        if page.stem != "extending")]  # fmt: skip
WRITE_DOWN = """#!/usr/bin/env bash
printf '%s\\0' "$(basename "$0")" "$@" >> "$CALLS"
printf '\\n' >> "$CALLS"
[ "$1" != clone ] || { mkdir "$3"; ln -s "$PWD"/* "$3"; }
[ "$2" != venv ] || { mkdir -p "$3/bin"; touch "$3/bin/activate"; }
"""


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


class Parsed(BaseException):
    """Ends a command where its arguments have been read."""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with everything of the repository, where only the stand-ins are called."""
    for name in os.listdir(ROOT):
        if not name.startswith(".") and name not in ("data", "output"):
            (tmp_path / name).symlink_to(ROOT / name)
    for name in (
        "programs",
        "data/grocery/grocery/kiwi",
        "data/grocery/grocery_coarse/kiwi",
        "photos",
    ):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "mine.safetensors").symlink_to(ROOT / "assets/whurs19_vit_b_32.safetensors")
    trainer = (ROOT / "tests/dassl/toy_trainer.py").read_text().replace("ToyPrompts", "Theirs")
    (tmp_path / "theirs.py").write_text(trainer)
    (tmp_path / "theirs.yaml").write_text("OPTIM: {MAX_EPOCH: 1}\n")
    programs = tmp_path / "programs"
    for name in ("python", "pip", "pytest", "git", "mkdocs", "hf", "cp", "curl"):
        (programs / name).write_text(WRITE_DOWN)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    for name in ("PYTHON", "OUTPUT", "DATA", "SEEDS", "TRAINERS", "SLURM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def calls(checkout: Path, block: str) -> list[list[str]]:
    """The programs that a block starts, each with its arguments."""
    done = subprocess.run(["bash", "-e", "-c", block], capture_output=True, text=True, timeout=60)
    assert not done.returncode and not done.stderr, done.stderr
    return [line.split("\0")[:-1] for line in (checkout / "calls").read_text().splitlines()]


def check(call: list[str], monkeypatch) -> None:
    """Give the arguments of a program to its own parser, and to what checks names and keys."""
    match call:
        case ["python", "train.py", *words]:
            args = train.parse_args(words)
            assert args.trainer and args.output_dir
            train.setup_cfg(args)
        case ["python", "-m", "benchmark", name, *words] if name in PROTOCOLS:
            parser = build_parser(PROTOCOLS[name])
            runs, settings = plan_runs(
                PROTOCOLS[name], parse(parser, site.join_slurm_words(words, parser))
            )
            train.setup_cfg(train.parse_args(command(runs[0], settings)[2:]))
        case ["python", "-m", "benchmark", name, *words]:
            parse_args = argparse.ArgumentParser.parse_args

            def parse_only(*args):
                parse_args(*args)
                raise Parsed

            with monkeypatch.context() as patch, pytest.raises(Parsed):
                patch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
                main([name, *words])
        case ["pip", "install", "-r", file]:
            assert Path(file).is_file()
        case ["python", "-m", "pydoc", name]:
            assert pydoc.locate(name)
        case ["python", "-c", code]:
            compile(code, "<page>", "exec")
        case ["pip", "install", target]:
            extras = re.fullmatch(r"\.(?:\[(.+)\])?", target)[1] or "hub"
            project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
            assert set(extras.split(",")) <= project["optional-dependencies"].keys()
        case ["pip", "install", *names] if names[1:]:
            required = (ROOT / "requirements.txt").read_text("utf-8")
            for name in names:
                assert Path(name).is_dir() or re.search(rf"^{name}\b", required, re.MULTILINE), name
        case ["cp", "-r", folder, _]:
            assert Path(folder).is_dir()
        case ["git", "clone", "URL", _] | ["python", "-m", "venv", _] | ["pytest"]:
            pass
        case ["mkdocs", "serve"] | ["hf", *_] | ["curl", "--data-binary", "@cat.jpg", _]:
            pass
        case _:
            pytest.fail(f"nothing checks {call}")


@pytest.mark.parametrize("page", PAGES)
def test_commands_can_be_pasted(page, checkout, monkeypatch):
    for block in blocks(page, "bash"):
        (checkout / "calls").write_text("")
        found = calls(checkout, block)
        assert found, block
        for call in found:
            check(call, monkeypatch)


# Pages with commands in a table or list, and the heading of its section if others have some, too.
TABLES = {"coming_from": "", "running": "\n## The paper's tables\n"}


@pytest.mark.parametrize("page", TABLES)
def test_commands_in_tables_can_be_pasted(page, checkout, monkeypatch):
    text = (ROOT / f"docs/{page}.md").read_text("utf-8")
    if heading := TABLES[page]:
        text = text.partition(heading)[2].partition("\n## ")[0]
    spans = re.findall(
        r"`((?:\w+=(?:\S+|\".+?\") )*(?:bash scripts/|python -m benchmark [a-z-]+ ).+?)`", text
    )
    found = calls(checkout, "\n".join(spans))
    assert len(found) >= len(spans) > 0  # some scripts call several
    for call in found:
        check(call, monkeypatch)


def test_examples_of_the_help_can_be_pasted(checkout, monkeypatch):
    lines = [line[4:] for line in train.EXAMPLES.splitlines() if line.startswith("    ")]
    found = calls(checkout, "\n".join(lines))
    assert len(found) == 3
    for call in found:
        check(call, monkeypatch)


def test_python_of_the_first_page():
    (block,) = blocks("README.md", "python")
    names = {}
    exec(block, names)
    assert names["logits"].shape == (8, 2) and names["logits"].isfinite().all()


NOTEBOOK = ROOT / "examples" / "first_steps.ipynb"


def test_outputs_of_the_notebook_are_not_kept():
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


@pytest.mark.slow
def test_the_notebook_trains_and_draws():
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    import nbformat

    notebook = nbformat.read(NOTEBOOK, 4)
    check = nbformat.v4.new_code_cell("assert after > before + 3, (before, after)")
    notebook.cells.append(check)
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    drawn = [cell for cell in notebook.cells if "image/png" in json.dumps(cell)]
    assert len(drawn) == 2
