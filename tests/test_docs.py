"""The pages of docs/: their commands are understood, and every public name has its place."""

import argparse
import re
import shlex

import pytest
import yaml
from paths import ROOT

import train
from benchmark.__main__ import COMMANDS, run_command
from benchmark.cli import Parser
from benchmark.launch.command import build_parser, parse, planned
from benchmark.launch.engine import command
from benchmark.protocols import PROTOCOLS
from trainers import prompting

PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


class Parsed(BaseException):
    """The arguments are understood."""


def lines_of(page: str, having: str) -> list[list[str]]:
    """The words of each line of shell in fences and code spans that begins with this pattern."""
    text = (ROOT / page).read_text("utf-8")
    fences = "\n".join(code for kind, code in FENCE.findall(text) if kind == "bash")
    lines = fences.replace("\\\n", " ").splitlines()
    lines += re.findall("`([^`\n]+)`", FENCE.sub("", text))
    found = [line for line in lines if re.match(having, line) and "..." not in line]
    return [shlex.split(re.split(r" [|>&] | && ", line)[0], comments=True) for line in found]


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_are_understood(page, monkeypatch):
    def parse_only(parser, argv):
        argparse.ArgumentParser.parse_args(parser, argv)
        raise Parsed

    monkeypatch.setattr(Parser, "parse_args", parse_only)
    for _, _, _, name, *words in lines_of(page, "python -m benchmark [a-z]"):
        assert name in {**COMMANDS, **PROTOCOLS}
        if words and name in COMMANDS and name not in ("cost", "tune"):  # which plan runs
            with pytest.raises(Parsed):
                run_command(name, words)
    for _, _, *words in lines_of(page, r"python train\.py --root"):
        args = train.parse_args(words)
        assert (ROOT / args.config_file).is_file() and (ROOT / args.dataset_config_file).is_file()


def test_translated_commands_plan_runs():
    """With the variables that the scripts turn into options."""
    lines = lines_of("docs/coming_from.md", r"(\w+=.+ )?bash scripts/")
    assert len(lines) > 20
    for words in lines:
        at = words.index("bash")
        script = ROOT / words[at + 1]
        shell = script.read_text() + (ROOT / "scripts" / "run.sh").read_text()
        options = dict(re.findall(r"\$\{(\w+):\+(--[a-z]+) ", shell))
        given = [word.partition("=") for word in words[:at]]
        argv = [part for name, _, value in given for part in (options[name], value)]
        protocol = PROTOCOLS[script.stem]
        runs, settings = planned(protocol, parse(build_parser(protocol), argv + words[at + 2 :]))
        for trainer in {run.trainer for run in runs}:
            run = next(run for run in runs if run.trainer == trainer)
            cfg = train.setup_cfg(train.parse_args(command(run, settings)[2:]))
            assert run.trainer == cfg.TRAINER.NAME


def test_every_public_name_is_in_the_reference():
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    names = re.findall(r"^::: trainers\.prompting\.(\w+)$", text, re.MULTILINE)
    assert sorted(names) == sorted(prompting.__all__)


def test_hosted_ci_runs_the_commands_of_the_readme():
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))["jobs"]["test"]
    readme = (ROOT / "README.md").read_text("utf-8")
    steps = [step["run"] for step in job["steps"] if "run" in step]
    assert len(steps) == 3 and all(step in readme for step in steps), steps
    versions = job["strategy"]["matrix"]["python"]
    needed = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    assert f"You need Python {versions[0]}-{versions[-1]}" in needed
