"""Runs on the hub, from a stand-in for its HTTP endpoint: what is fetched, and what is refused."""

import os
import subprocess
import sys

import pytest
from hub import COMMIT, OLD, stand_in
from paths import ROOT

from trainers.prompting.errors import UserError
from trainers.prompting.storage.hub import fetch_run

pytest.importorskip("huggingface_hub")

FILES = {
    "runs/one/prompt_learner/model.pth.tar-2": b"prompts",
    "runs/one/prompt_learner/checkpoint": b"model.pth.tar-2",
    "runs/one/results.json": b"{}",
    "runs/one/evil.py": b"raise SystemExit",
    "runs/one/prompt_learner/deep/model.pth.tar-1": b"of another run",
    "two/prompt_learner/model.pth.tar-1": b"more prompts",
}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return the address of the stand-in, and the paths that it is asked for."""
    with stand_in(FILES, monkeypatch, tmp_path / "cache") as hub:
        yield hub


def below(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def said(capsys):
    """The lines on stderr that are not a bar of huggingface_hub."""
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("hf://")]


def test_only_the_checkpoints_and_the_record_of_the_run_are_fetched(hub, capsys):
    _, asked = hub
    run = fetch_run("hf://user/repo/runs/one/")
    assert below(run) == ["prompt_learner/model.pth.tar-2", "results.json"]
    assert (run / "prompt_learner/model.pth.tar-2").read_bytes() == b"prompts"
    assert not any("evil.py" in path or "two" in path for path in asked)
    before = len(asked)
    assert fetch_run("hf://user/repo/runs/one") == run
    assert not any("/resolve/" in path for path in asked[before:])  # they are in the cache
    assert said(capsys) == [f"hf://user/repo: commit {COMMIT}, from the hub"] * 2


@pytest.mark.parametrize("revision", ["old%2Fone", "refs/pr/1", OLD])
def test_a_revision_is_fetched(hub, capsys, revision):
    run = fetch_run(f"hf://user/repo@{revision}/runs/one")
    assert below(run) == ["prompt_learner/model.pth.tar-2"]  # it had no record yet
    assert said(capsys) == [f"hf://user/repo@{revision}: commit {OLD}, from the hub"]


@pytest.mark.parametrize("revision", ["", "@refs/pr/1", f"@{OLD}"])
def test_without_the_hub_the_cache_is_used_and_named(hub, monkeypatch, capsys, revision):
    run = fetch_run(f"hf://user/repo{revision}/runs/one")
    capsys.readouterr()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert fetch_run(f"hf://user/repo{revision}/runs/one") == run
    (line,) = said(capsys)
    commit = OLD if revision else COMMIT
    start = f"hf://user/repo{revision}: commit {commit}, from the cache, without the hub ("
    assert line.startswith(start + "Connect")
    for missing in ("hf://user/repo/two", "hf://user/repo@old%2Fone/runs/one", "hf://user/gone"):
        with pytest.raises(UserError, match=r"cannot be fetched \(Connect.*: check the name"):
            fetch_run(missing)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("hf://user", r"is not a run on the hub: write hf://USER/REPO\[@REVISION\]"),
        ("hf://user/repo@", "is not a run on the hub: write hf://USER/REPO"),
        ("hf://user/repo@../secret", "is not a run on the hub: write hf://USER/REPO"),
        ("hf://user/repo@a%2F..%2Fb", "is not a run on the hub: write hf://USER/REPO"),
        ("hf://user/repo@gone/runs/one", "cannot be fetched .RevisionNotFound.*: check the name"),
        ("hf://user/repo/../secret", "is not a run on the hub: write hf://USER/REPO"),
        ("hf://user/gone", "'hf://user/gone' cannot be fetched .*: check the name, the connection"),
    ],
)
def test_a_name_that_is_no_run_is_refused(hub, name, why):
    with pytest.raises(UserError, match=why) as error:
        fetch_run(name)
    assert "\n" not in str(error.value) and len(str(error.value)) < 450


def test_the_endpoint_of_the_environment_is_used_and_pytorch_is_not_needed(hub, tmp_path):
    code = (
        "import sys; from trainers.prompting.storage.hub import fetch_run\n"
        "print(fetch_run('hf://user/repo/two').name, 'torch' in sys.modules)"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub[0], "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment,
                          capture_output=True, text=True, timeout=100)  # fmt: skip
    assert done.stdout == "two False\n", done.stderr
