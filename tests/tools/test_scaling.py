"""Tests of `python -m tools.scaling`, which compares ranks with one process."""

import json

import pytest
import torch

from benchmark.measure.geometry import GEOMETRY
from tools import scaling
from trainers.prompting import UserError

TINY = (64, 64, 12, 128, 8, 77, 49408, 128, 2, 12)  # as deep as ViT-B, a sixth as wide


@pytest.fixture
def flags(monkeypatch):
    monkeypatch.setitem(GEOMETRY, "tiny", TINY)
    threads = torch.get_num_threads()
    yield ["--backbone", "tiny", "--classes", "5", "--batch", "3", "--repeats", "1"]
    torch.set_num_threads(threads)


def test_the_table_shows_what_the_file_has(flags, tmp_path, capsys):
    file = tmp_path / "scaling.json"
    scaling.main([*flags, "--json", str(file)])
    (one,) = json.loads(file.read_text())
    assert one["operations"] > 0 and one["seconds"] > 0 and one["ranks"] == 1
    two = one | {"ranks": 2, "operations": 0.7 * one["operations"]}  # as torchrun would add
    file.write_text(json.dumps([two]))
    capsys.readouterr()
    scaling.main([*flags, "--json", str(file)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]
    assert [line[1] for line in cells] == ["1 x 1", "2 x 1"]
    assert cells[0][4:6] == ["1.000", "1.000"]
    assert cells[1][4:6] == ["1.400", "1.050"]  # the larger share of 3 images is 2 of 3


@pytest.mark.parametrize(
    "content", ["", "{}", "[1]", '[{"trainer": "ALIGN"}]', '{"torch": "2", "records": []}', "\xff"]
)
def test_a_file_with_other_content_is_refused_and_kept(flags, tmp_path, content):
    file = tmp_path / "scaling.json"
    file.write_text(content, "latin-1")
    with pytest.raises(UserError, match="--json: '.*scaling.json' holds no earlier measurements"):
        scaling.main([*flags, "--json", str(file)])
    assert file.read_text("latin-1") == content
