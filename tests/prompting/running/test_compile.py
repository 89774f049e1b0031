"""Compiled blocks compute the same numbers; a machine that cannot compile prints one line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from models import align, images, outcome
from paths import ROOT
from tiny import arguments, run

from trainers.prompting.running import compiling
from trainers.prompting.running.compiling import CACHE, compile_blocks


@pytest.mark.slow
def test_compiled_blocks_give_the_same_numbers(tiny_clip):
    plain, compiled = align(tiny_clip, 2, 2), align(tiny_clip, 2, 2)
    state = plain.public_state_dict()
    before = compiled.image_encoder._block, compiled.text_encoder._block
    obstacle = compile_blocks(compiled)
    after = compiled.image_encoder._block, compiled.text_encoder._block
    assert (before == after) == bool(obstacle)
    (logits, grads), (same, others) = outcome(plain, state), outcome(compiled, state)
    torch.testing.assert_close(logits, same, rtol=1e-5, atol=1e-4)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, others[name], rtol=1e-3, atol=1e-6)
    expected = plain.eval()(images())
    torch.testing.assert_close(compiled.eval()(images()), expected, rtol=1e-5, atol=1e-4)


@pytest.fixture
def no_compiler(monkeypatch):
    def refuse(function):
        raise RuntimeError("No working C++ compiler found\nand much more")

    monkeypatch.setattr(torch, "compile", refuse)


def test_a_machine_without_a_compiler_runs_without(tmp_path, capsys, no_compiler):
    assert run(tmp_path, "ALIGN", None, 1, extra=["TRAINER.COMPILE", "True"]) == 0
    reason = "RuntimeError: No working C++ compiler found"
    lines = capsys.readouterr().out.splitlines()
    assert lines.count(f"COMPILE: running without ({reason})") == 1


def broken_compiler(monkeypatch, works):
    """Make compiled functions raise the error of a half-written library, unless `works`."""

    def compile_(function):
        def run(*args):
            if not works(function):
                raise ImportError("block.so: file too short")
            return function(*args)

        return run

    monkeypatch.setattr(torch, "compile", compile_)


def test_a_broken_cache_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    broken_compiler(monkeypatch, lambda function: os.environ[CACHE] != str(tmp_path / "cache"))
    assert run(tmp_path, "ALIGN", None, 1, extra=["TRAINER.COMPILE", "True"]) == 0
    cache = f"the compiler's cache is broken: delete '{tmp_path / 'cache'}'"
    assert f"COMPILE: running without ({cache})" in capsys.readouterr().out.splitlines()
    assert os.environ[CACHE] == str(tmp_path / "cache")


def test_a_cache_that_is_broken_only_for_the_blocks(tiny_clip, capsys, monkeypatch):
    monkeypatch.setenv(CACHE, "cache")
    plain, compiled = align(tiny_clip, 2, 2), align(tiny_clip, 2, 2)
    broken_compiler(monkeypatch, lambda function: function is torch.sin)
    assert compile_blocks(compiled) is None
    (logits, _), (same, _) = outcome(plain), outcome(compiled, plain.public_state_dict())
    assert torch.equal(logits, same)
    line = (
        "COMPILE: the compiler fails, running without (ImportError: block.so: file too short); if "
        "it was killed while it wrote, its cache is broken: delete 'cache'"
    )
    assert capsys.readouterr().out.splitlines() == [line] * 2, "once for each encoder"


def test_the_error_of_a_backend_is_reported():
    error = RuntimeError("backend='inductor' raised:\nOSError: x.so: file too short\nand more")
    expected = "RuntimeError: backend='inductor' raised: OSError: x.so: file too short"
    assert compiling.in_words(error) == expected
    assert compiling.in_words(RuntimeError()) == "RuntimeError: "


def test_errors_of_the_blocks_are_not_mistaken_for_errors_of_the_compiler(monkeypatch):
    def wrong(x):
        raise RuntimeError("sizes do not match")

    monkeypatch.setattr(torch, "compile", lambda function: function)
    with pytest.raises(RuntimeError, match="sizes do not match"):
        compiling.compiled(wrong)(torch.ones(1))


def compile_in(cache: Path, root: Path, output: str) -> str:
    """Do a run of one epoch in a separate process with this compiler cache; return its output."""
    command = [sys.executable, str(ROOT / "tests" / "tiny.py")]
    command += [*arguments(root, "CoOp", root / output, 1), "TRAINER.COMPILE", "True"]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {CACHE: str(cache), "PYTHONPATH": paths}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((root / output / "results.json").read_text())["accuracy"] >= 0
    return done.stdout


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """The folder of a run that has filled `cache`, with a copy of it in `whole`."""
    if shutil.which("g++") is None:
        pytest.skip("there is no C++ compiler (g++)")
    root = tmp_path_factory.mktemp("compiled")
    said = compile_in(root / "cache", root, "first")
    if "COMPILE: torch.compile fuses blocks" not in said:
        reason = next(line for line in said.splitlines() if line.startswith("COMPILE: "))
        pytest.skip(f"torch.compile does not work here ({reason})")
    shutil.copytree(root / "cache", root / "whole")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["*.so", "*"])
def test_a_cache_whose_files_were_cut_off(compiled_once, pattern):
    """A compiler that is killed while it writes leaves such files."""
    root, cache = compiled_once, compiled_once / "cache"
    shutil.rmtree(cache)
    shutil.copytree(root / "whole", cache)
    files = [path for path in cache.rglob(pattern) if path.is_file()]
    assert files
    for path in files:
        os.truncate(path, min(100, path.stat().st_size))
    said = compile_in(cache, root, f"after {len(files)}")
    assert f"cache is broken: delete '{cache}'" in said
