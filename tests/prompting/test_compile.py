"""Compiled blocks: the same numbers, and nothing but one line where a machine cannot compile."""

import os

import pytest
import torch
from test_model import align, images, outcome
from tiny import run

from trainers.prompting import compiling
from trainers.prompting.compiling import CACHE


@pytest.mark.slow
def test_compiled_blocks_give_the_same_numbers(tiny_clip):
    plain, compiled = align(tiny_clip, 2, 2), align(tiny_clip, 2, 2)
    state = plain.public_state_dict()
    before = compiled.image_encoder._block, compiled.text_encoder._block
    obstacle = compiled.compile_blocks()
    after = compiled.image_encoder._block, compiled.text_encoder._block
    assert (before == after) == bool(obstacle)
    (logits, grads), (same, others) = outcome(plain, state), outcome(compiled, state)
    torch.testing.assert_close(logits, same, rtol=0, atol=1e-4)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, others[name], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(plain.eval()(images()), compiled.eval()(images()), rtol=0, atol=1e-4)


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
    """A compiler whose functions raise what a half-written library does, unless `works`."""

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


def test_a_cache_that_is_broken_for_the_blocks_alone(tiny_clip, capsys, monkeypatch):
    monkeypatch.setenv(CACHE, "cache")
    plain, compiled = align(tiny_clip, 2, 2), align(tiny_clip, 2, 2)
    broken_compiler(monkeypatch, lambda function: function is torch.sin)
    assert compiled.compile_blocks() is None
    (logits, _), (same, _) = outcome(plain), outcome(compiled, plain.public_state_dict())
    assert torch.equal(logits, same)
    line = (
        "COMPILE: the compiler fails, running without (ImportError: block.so: file too short); if "
        "it was ended while it wrote, its cache is broken: delete 'cache'"
    )
    assert capsys.readouterr().out.splitlines() == [line] * 2, "once for each encoder"


def test_an_error_of_the_blocks_is_not_taken_for_one_of_the_compiler(monkeypatch):
    def wrong(x):
        raise RuntimeError("sizes do not match")

    monkeypatch.setattr(torch, "compile", lambda function: function)
    with pytest.raises(RuntimeError, match="sizes do not match"):
        compiling.compiled(wrong)(torch.ones(1))
