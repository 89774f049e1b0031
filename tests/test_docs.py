"""The reference has every public name, and hosted CI the commands of the first page."""

import re
import tomllib

import pytest
import yaml
from paths import ROOT

from benchmark.__main__ import COMMANDS
from benchmark.inspect.methods import KINDS
from benchmark.protocols import PROTOCOLS
from trainers import prompting
from trainers.prompting.method import find_method

ATTACKS = ("pgd", "cw", "transfer-pgd", "transfer-cw")
STREAMS = ("shuffled", "stream", "separate", "few", "order.txt")


def test_the_first_page_lists_every_method_and_counts_them_as_the_package_does():
    names = prompting.list_methods()
    ours = [name for name in names if find_method(name).__module__.startswith("trainers.")]
    readme = (ROOT / "README.md").read_text("utf-8")
    assert sorted(sum(KINDS.values(), ())) == sorted(ours)
    rows = re.findall(r"^\| \[(.+)\]\(docs/all_methods\.md#(\S+)\) \| (.+?) \|", readme, re.M)
    kinds = {title: tuple(re.findall(r"\w+", re.sub(r"\(.*?\)", "", names)))
             for title, _, names in rows}  # fmt: skip
    assert kinds == KINDS and all(place == title.lower().replace(" ", "-")
                                  for title, place, _ in rows)  # fmt: skip
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for text in (readme, project["description"]):
        assert re.findall(r"and (\d+) other\s+methods", text) == [str(len(ours) - 1)]


def test_the_first_page_stays_short():
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 800


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_no_equation_is_cut_on_the_site(page):
    text = page.read_text("utf-8")
    equations = re.findall(r"(?<=\n\n)(?:    \S.*\n)+", text)
    assert not [line for block in equations for line in block.splitlines() if len(line) > 88]
    prose = re.sub(r"^```.*?^```|^    [^\n]+|`[^`]+`", "", text, flags=re.DOTALL | re.MULTILINE)
    assert not re.findall(r"<(?!/?(?:picture|source|img)\b)[A-Za-z/].*", prose), (
        "<T, C> disappears as a tag of HTML"
    )


def test_every_public_name_is_in_the_reference():
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    names = re.findall(r"^::: trainers\.prompting\.(\w+)$", text, re.MULTILINE)
    assert sorted(names) == sorted(prompting.__all__)


def test_the_list_of_all_commands_has_all():
    page = (ROOT / "docs" / "running.md").read_text("utf-8")
    section = page.partition("\n## All commands\n")[2]
    named = set(re.findall(r"`([a-z2-]\w*(?:-\w+)?)(?: [^`]*)?`", section))
    assert not {*COMMANDS, *PROTOCOLS} - named


def test_each_attack_and_stream_has_a_command():
    page = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    commands = "\n".join(re.findall(r"^```bash\n(.*?)^```", page, re.DOTALL | re.MULTILINE))
    for key, values in {"ATTACK": ATTACKS, "STREAM": STREAMS}.items():
        varied = ",".join(re.findall(rf"--vary TEST\.{key}=(\S+)", commands)).split(",")
        assert set(values) <= {value.partition(":")[0] for value in varied}, key


def test_hosted_ci_runs_the_commands_of_the_readme():
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))["jobs"]["test"]
    readme = (ROOT / "README.md").read_text("utf-8")
    steps = [step["run"] for step in job["steps"] if "run" in step]
    assert len(steps) == 3 and all(step in readme for step in steps), steps
    versions = job["strategy"]["matrix"]["python"]
    needed = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    assert f"You need Python {versions[0]}-{versions[-1]}" in needed


def test_what_the_pages_say_of_published_code_is_in_the_table():
    """Of the ratios of steps, and of memory; the first page rounds them, and promises no more."""
    page = (ROOT / "docs" / "performance.md").read_text("utf-8")
    rows = re.findall(r"^\| (\w+)[^|]*" + r"\| ([\d.]+) " * 6 + r"\|$", page, re.MULTILINE)
    steps, memory = {}, {}
    for name, _, step, _, _, ours, theirs in rows:
        steps[name], memory[name] = float(step), round(float(theirs) / float(ours), 1)
    assert len(steps) == len(rows) > 6
    said = re.search(r"takes ([\d.]+) to ([\d.]+)\s+times as long as ours", page)
    assert list(map(float, said.groups())) == [min(steps.values()), max(steps.values())]
    said = re.search(r"([\d.]+) to ([\d.]+)\s+times the memory", page)
    assert list(map(float, said.groups())) == [min(memory.values()), max(memory.values())]
    readme = (ROOT / "README.md").read_text("utf-8")
    named = re.findall(r"a (third|fourth|fifth|sixth) \(([\w, ]+)\)", readme)
    assert named
    for part, names in named:
        share = 3 + ["third", "fourth", "fifth", "sixth"].index(part)
        assert all(share <= round(steps[name]) for name in names.split(", ")), (part, names)
