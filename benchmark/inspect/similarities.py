"""Similarities of an image's patches to a class and to the words of its prompt, for `visualize`.

Letters: P patches, D the width of features, L words.
"""

from copy import copy
from typing import Any

import torch
import torch.nn.functional as F

from trainers.prompting import build_method, load_clip
from trainers.prompting.encoders.class_text import SeveralSentences
from trainers.prompting.encoders.vision import project_values
from trainers.prompting.errors import UserError, need


def initial_method(run: Any, name: str) -> Any:
    """Return zero-shot CLIP for one class, with the CLIP of a run."""
    clip_model, dataset = load_clip(run.backbone), run.settings.DATASET.NAME
    return build_method("ZeroshotCLIP", {}, clip_model, [name], dataset).eval()


@torch.no_grad()
def similarities(
    model: Any, image: torch.Tensor, k: int, n: int
) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Return cosines of an image's patches with class k under prompt n, and with its words.

    Patches are those of the value path of the last block, where each attends only to itself, with
    all that the method has learned; under several visual prompts, their mean.

    Args:
        image: (3, H, W), normalised.
        k: number of the class, from 0.
        n: number of the prompt, from 0.

    Returns:
        (P,) of the class, (P, L) of the words, and these; L is 0 if the sentence of a class is not
        the method's alone: it depends on the image, or there are several.
    """
    h, contexts, text = model.output(image[None]).text.h, model.contexts(), model.text_encoder
    prompts = 1 if model.conditional else len(h)
    need(n < prompts, f"--prompts has {n + 1}, but the run has {prompts}: give 1 to {prompts}")
    r = patch_features(model, image[None], contexts)
    need(
        r.shape[-1] == h.shape[-1],
        f"{type(model).__name__} compares images with features of another CLIP's text, to which "
        "its patches have no similarity: choose another run",
    )
    several = isinstance(text, SeveralSentences) or text.insert_block or model.conditional
    if several or text.closed is not None:
        return r @ h[n, k], r[:, :0], []
    own = text.of_class(k)
    chosen = slice(k, k + 1) if text.class_specific else slice(None)
    learned = [context[:, chosen] for context in contexts.text or ()]
    s = own(learned or None, None, model.blocks("text")).s[n, 0].float()
    return r @ h[n, k], r @ s.T, own.words(0, n)


def patch_features(model: Any, images: torch.Tensor, contexts: Any) -> torch.Tensor:
    """Return the normalised features r (P, D) of an image (1, 3, H, W).

    What a method learns on features takes each patch as it takes an image.
    """
    encoder, added = copy(model.image_encoder), model.blocks("image")
    visual, reads = encoder.visual, encoder.more
    if encoder.is_closed:
        raise UserError(
            "The image side of this backbone is closed (docs/backbones.md), so there are no "
            "patches: choose a run of a CLIP with an open ViT"
        )
    encoder.values, encoder.vv = True, ""
    values = encoder(images, contexts.vision, added).values
    if reads or added or contexts.vision:
        return F.normalize(project_values(visual, values)[0].mean(0), dim=-1)
    rows = values[0, 0].float()
    rows = rows if rows.shape[-1] == model.row_width else encoder.shape.alone(visual, rows)
    z: torch.Tensor = model.image_features(rows, contexts).z[:, 0].float()
    return z
