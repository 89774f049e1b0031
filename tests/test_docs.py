"""The reference has every public name, and hosted CI the commands of the first page."""

import inspect
import re

import yaml
from paths import ROOT

from trainers import prompting


def test_every_public_name_is_in_the_reference():
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    names = re.findall(r"^::: trainers\.prompting\.(\w+)$", text, re.MULTILINE)
    assert sorted(names) == sorted(prompting.__all__)
    listed = re.findall(r"^- \[(\w+)\]\(\.\./(.+?)\): (.+)$", text, re.MULTILINE)
    assert [name for name, *_ in listed] == names
    for name, file, summary in listed:
        found = getattr(prompting, name)
        assert inspect.getsourcefile(found) == str(ROOT / file), name
        assert inspect.getdoc(found).splitlines()[0] == summary, name


def test_equations_link_to_the_files_that_compute_them_and_back():
    text = (ROOT / "docs" / "methods.md").read_text("utf-8")
    files = set(re.findall(r"\]\(\.\./(trainers/[\w/]+\.py)\)", text))
    assert len(files) > 8
    for file in files:
        assert "methods.md" in (ROOT / file).read_text("utf-8"), file


def test_hosted_ci_runs_the_commands_of_the_readme():
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))["jobs"]["test"]
    readme = (ROOT / "README.md").read_text("utf-8")
    steps = [step["run"] for step in job["steps"] if "run" in step]
    assert len(steps) == 3 and all(step in readme for step in steps), steps
    versions = job["strategy"]["matrix"]["python"]
    needed = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    assert f"You need Python {versions[0]}-{versions[-1]}" in needed
