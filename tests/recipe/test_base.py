"""Config files that name another one as their base."""

import pytest

from recipe.configs import read_keys
from trainers.prompting.errors import UserError


def write(folder, name, text):
    path = folder / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_keys_of_a_base_are_replaced_with_their_sections(tmp_path):
    write(tmp_path, "A/one", "OPTIM: {LR: 1, NAME: sgd}\nBY_SHOTS: {other: {OPTIM: {LR: 2}}}\n")
    write(tmp_path, "B/two", "BASE: A/one\nTRAINER: {B: {N: 1}}\n")
    path = write(tmp_path, "C/three", "BASE: B/two\nOPTIM: {LR: 3}\n")
    assert read_keys(path) == {"OPTIM.NAME": "sgd", "OPTIM.LR": 3, "TRAINER.B.N": 1}


def test_a_base_of_the_repository(tmp_path):
    keys = read_keys(write(tmp_path, "Mine/emoji", "BASE: CoOp/emoji\nOPTIM: {LR: 0.5}\n"))
    assert keys["OPTIM.LR"] == 0.5 and keys["MODEL.BACKBONE.NAME"] == "emoji"


@pytest.mark.parametrize("base", ["CoOp/none", "../../secret", "/etc/passwd", "[a]", "CoOp", "7"])
def test_no_such_base(tmp_path, base):
    with pytest.raises(UserError, match="there is no such file .* give METHOD/CONFIG"):
        read_keys(write(tmp_path, "Mine/x", f"BASE: {base}\n"))


def test_a_file_that_is_its_own_base(tmp_path):
    write(tmp_path, "A/one", "BASE: B/two\n")
    path = write(tmp_path, "B/two", "BASE: A/one\n")
    with pytest.raises(UserError, match="is its own base"):
        read_keys(path)
