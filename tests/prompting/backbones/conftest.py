"""Fixtures: small backbones of OpenAI's class and of other libraries."""

import pytest
from foreign import hugging_face_folder, open_clip_config, open_clip_folder
from released import ARCH

from trainers.prompting import build_clip


@pytest.fixture(scope="package")
def model():
    return build_clip(ARCH)


@pytest.fixture(scope="package")
def backbones(tmp_path_factory):
    """The name of a backbone of each library; tests must not change its folder."""
    folder = tmp_path_factory.mktemp("backbones")
    config = open_clip_config({"ls_init_value": 0.5}, init_logit_bias=-2.0)
    first, _ = open_clip_folder(folder / "open_clip", config)
    second, _ = hugging_face_folder(folder / "hugging_face", hidden_act="gelu")
    return {"open_clip": f"open_clip:{first}", "Hugging Face": str(second)}
