"""Models of transformers get images as their own processors prepare them, or are refused."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dassl.config import get_cfg_default
from PIL import Image

from trainers.prompting import UserError, extend_cfg
from trainers.prompting.backbones import hugging_face
from trainers.prompting.building.config import fit_images
from trainers.prompting.building.transforms import as_resized, plain_transform
from trainers.prompting.use.commands.export import metadata

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
SIZE = 32  # of the images that the model reads
CROP = {"do_center_crop": True, "crop_size": {"height": SIZE, "width": SIZE}}
ALIGN = CROP | {
    "image_processor_type": "EfficientNetImageProcessor", "size": {"height": 40, "width": 40},
    "do_normalize": False, "rescale_factor": 1 / 127.5, "rescale_offset": True,
    "include_top": False, "resample": 2,
}  # fmt: skip
SIGLIP = {"image_processor_type": "SiglipImageProcessor"}
CLIP = CROP | {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}}
READ = {
    "a crop": (CLIP, "shortest"),
    "an old file": ({"feature_extractor_type": "CLIPFeatureExtractor", "size": 36,
                     "crop_size": 32}, "shortest 36"),
    "squashed": (SIGLIP | {"size": {"height": 32, "width": 32}}, "squash"),
    "squashed and cropped": (ALIGN, "squash 40"),
    "not normalised": (CLIP | {"do_normalize": False}, "shortest"),
    "not rescaled": (CLIP | {"do_rescale": False}, "shortest"),
    "no size": (SIGLIP, "squash"),
}  # fmt: skip
REFUSED = {
    "do_resize is false": CLIP | {"do_resize": False},
    "do_pad is not known here": CLIP | {"do_pad": True},
    "include_top is not known here": ALIGN | {"include_top": True},
    "resample is 1": CLIP | {"resample": 1},
    "size is .*'longest_edge'": CLIP | {"size": {"longest_edge": 32}},
    "crop_size is .*64": CLIP | {"crop_size": {"height": 32, "width": 64}},
}  # fmt: skip


def read_preparation(folder, how):
    """Write how images are prepared, and return it as it is read."""
    config = {"model_type": "clip", "vision_config": {"image_size": SIZE}}
    (folder / "config.json").write_text(json.dumps(config))
    content = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]} | how
    nested = "image_processor_type" in how  # as newer versions save it
    name = "processor_config.json" if nested else "preprocessor_config.json"
    content = {"image_processor": content} if nested else content
    (folder / name).write_text(json.dumps(content))
    return hugging_face._images(transformers, folder, "mine", config)


@pytest.mark.parametrize("case", READ)
def test_pixels_are_those_of_the_processor(tmp_path, case):
    how, resize = READ[case]
    family, size = read_preparation(tmp_path, how)
    assert family.resize == resize and size == SIZE
    visual = SimpleNamespace(input_resolution=SIZE)
    cfg = get_cfg_default()
    extend_cfg(cfg)
    cfg.INPUT.TRANSFORMS = ["normalize"]
    cfg, _ = fit_images(cfg, SimpleNamespace(family=family, visual=visual))
    x = np.add.outer(np.arange(60) * 2, np.arange(90))  # smooth: few pixels differ by rounding
    image = Image.fromarray(np.stack([x, 255 - x, x // 2], -1).astype(np.uint8))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    size = {} if "size" in how else {"size": {"height": SIZE, "width": SIZE}}
    wanted = processor(images=image, return_tensors="pt", **size).pixel_values[0]
    found = plain_transform(cfg)(image)
    levels = torch.tensor(cfg.INPUT.PIXEL_STD)[:, None, None] * 255
    assert found.shape == wanted.shape == (3, SIZE, SIZE)
    assert ((found - wanted) * levels).abs().max() <= 1.01  # levels of 256
    run = SimpleNamespace(
        settings=cfg, method="", backbone="", classnames=[], calibration="", temperature=1.0
    )
    assert f"{metadata(run)['resize']} {metadata(run)['resize_to']}".startswith(resize)
    crop = as_resized(lambda image: image.size, cfg, is_train=True)
    assert crop(image) == ((60, 60) if resize.startswith("squash") else image.size)


@pytest.mark.parametrize("said", REFUSED)
def test_what_cannot_be_done_is_refused(tmp_path, said):
    with pytest.raises(UserError, match=f"how to prepare images.* .{said}.*correct it"):
        read_preparation(tmp_path, REFUSED[said])
