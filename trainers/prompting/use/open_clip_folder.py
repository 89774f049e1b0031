"""Writes a tuned CLIP as a folder that open_clip loads, if a run ends in CLIP's own weights."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from ..backbones import load_clip, openclip
from ..backbones.hub import package
from ..backbones.openai_clip.model import QuickGELU
from ..building.toward_start import tuned_tensors
from ..encoders.added import SIDES, merge
from ..encoders.sentences import write_sentences
from ..errors import UserError, in_short, need
from ..method import Method
from .export import check_fixed, random_images

CLASSIFIER = "classifier"  # the one tensor of a method that may be in a file of its own
TOLERANCE = 1e-5  # of logits, relative to the largest
INSTEAD = (
    "write a program instead (.pt2, .onnx) or, if only its text features are learned, these "
    "(.safetensors)"
)
CHUNK = 256  # sentences at a time


@torch.no_grad()
def tuned_clip(method: Method, clip_model: Any) -> tuple[Any, list[str]]:
    """Return a copy of a method's CLIP with what it has learned, and names that no CLIP has."""
    tuned = deepcopy(clip_model)
    weights = tuned.state_dict()
    own, _, rest = tuned_tensors(method, weights)
    for side in SIDES:
        if added := method.blocks(side):
            merge(added, (tuned if side == "text" else tuned.visual).transformer.resblocks)
    for place, p in own.items():
        weights[place].copy_(p)
    return tuned, rest


def model_config(clip_model: Any, backbone: str) -> dict[str, Any]:
    """Return the architecture of a CLIP as open_clip describes it."""
    if backbone.startswith((openclip.PREFIX, openclip.HUB)):
        config = deepcopy(openclip.find(backbone).config)
        for part in (config, config["vision_cfg"], config["text_cfg"]):
            for key in ("custom_text", "nonscalar_logit_scale", "ls_init_value"):  # folded in
                part.pop(key, None)
        return config
    visual, text = clip_model.visual, clip_model.transformer.resblocks
    if hasattr(visual, "transformer"):
        vision = _sizes(visual.transformer.resblocks)
        vision |= {"head_width": vision["width"] // vision.pop("heads")}
        vision |= {"patch_size": visual.conv1.stride[0]}
    else:
        layers = [visual.layer1, visual.layer2, visual.layer3, visual.layer4]
        vision = {"layers": [*map(len, layers)], "width": visual.layer1[0].conv1.out_channels}
        vision["head_width"] = 32 * vision["width"] // visual.attnpool.num_heads
        vision["patch_size"] = None
    vocabulary, context = len(clip_model.token_embedding.weight), clip_model.positional_embedding
    return {
        "embed_dim": clip_model.text_projection.shape[1],
        "quick_gelu": isinstance(text[0].mlp.gelu, QuickGELU),
        "vision_cfg": vision | {"image_size": visual.input_resolution},
        "text_cfg": _sizes(text) | {"vocab_size": vocabulary, "context_length": len(context)},
    }


def _sizes(blocks: Any) -> dict[str, Any]:
    hidden, width = blocks[0].mlp.c_fc.weight.shape
    sizes = {"layers": len(blocks), "width": width, "heads": blocks[0].attn.num_heads}
    return sizes | {"mlp_ratio": hidden / width}


@torch.no_grad()
def write_open_clip(run: Any, folder: Path, metadata: Mapping[str, str]) -> str:
    """Write a run's CLIP into an empty folder, compare it with the run, and return a sentence.

    The folder has open_clip's own two files; `run.json` with the metadata, the sentences of each
    class, the rule that makes one feature of them, and the factor of the run's logits; and
    `classifier.safetensors`, `weight` (K, D), of a method that learns one.
    """
    from safetensors.torch import save_file

    method, name, backbone = run.model, run.method, run.backbone
    check_fixed(method)
    empty = not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir()))
    need(empty, f"--output is '{folder}', which is not an empty folder: name another one")
    clip_model = load_clip(backbone)
    text: Any = getattr(method.text_encoder, "class_text", None)
    tuned, rest = tuned_clip(method, clip_model)
    own, refused = rest == [CLASSIFIER], f"{name} cannot be written as a CLIP: "
    what = f"it learns {(rest or ['its texts'])[0]}, which no CLIP has"
    need(text is not None and (own or not rest), f"{refused}{what}; {INSTEAD}")
    open_clip = package("open_clip", "open_clip_torch", backbone)
    sentences = text.sentences()
    more = {"sentences": dict(zip(run.classnames, sentences, strict=True)), "rule": text.rule}
    more["logit_scale"] = float(method.logit_scale)
    prepared = {key: json.loads(metadata[f"image_{key}"]) for key in ("mean", "std")}
    prepared |= {"interpolation": metadata["interpolation"], "resize_mode": metadata["resize"]}
    config = model_config(clip_model, backbone)
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        state = {key: value.contiguous() for key, value in tuned.state_dict().items()}
        save_file(state, made / openclip.FILES[0])
        (made / "run.json").write_text(json.dumps({**metadata, **more}, indent=1))
        images, ids = random_images(method), _ids(tuned, sum(sentences, []))
        try:
            content = {"model_cfg": config, "preprocess_cfg": prepared}
            (made / openclip.CONFIG).write_text(json.dumps(content, indent=1))
            with torch.random.fork_rng(devices=[]):
                how = {"require_pretrained": True}
                theirs = open_clip.create_model(f"local-dir:{made}", **how).eval()
            z = theirs.encode_image(images, normalize=True)
            each = torch.cat([theirs.encode_text(part) for part in ids.split(CHUNK)])
        except Exception as error:  # of an architecture that is not CLIP's, of many types
            why = f"open_clip has no class for '{backbone}' ({in_short(error)})"
            raise UserError(f"{refused}{why}; {INSTEAD}") from error
        h = text._replace(lists=sentences).features(each=each).h[0]
        if own:
            h = method.text().h[0]
            save_file({"weight": h.contiguous()}, made / f"{CLASSIFIER}.safetensors")
        bias, logits = method.logit_bias, method(images)
        found = method.logit_scale * z @ h.T + (0 if bias is None else bias)
        gap = float((found - logits).abs().max() / logits.abs().max())
        need(gap <= TOLERANCE, f"{refused}with its weights, logits are off by {gap:.0e}; {INSTEAD}")
        made.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    note = f", and {CLASSIFIER}.safetensors of its {len(h)} classes" * own
    return f"the CLIP of {name} for open_clip.create_model('local-dir:{folder}'){note}"


def _ids(clip_model: Any, sentences: list[str]) -> torch.Tensor:
    ids = torch.zeros(len(sentences), clip_model.context_length, dtype=torch.long)
    for row, sentence in zip(ids, write_sentences(clip_model, ["{}"], sentences)[0], strict=True):
        row[: len(sentence.ids)] = torch.tensor(sentence.ids)
    return ids
