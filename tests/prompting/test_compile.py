"""Compiled blocks: the same numbers, and nothing but one line where a machine cannot compile."""

import pytest
import torch
from test_model import align, images, outcome
from tiny import run


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
    assert lines.count(f"COMPILE: this machine cannot, running without ({reason})") == 1
