"""Pre-train the embedded CLIP on emoji and icons, on two CPU cores, in half an hour.

    python -m assets.builders.pictures --packages PACKAGES --output pictures.npz \
        --withhold assets/emoji_artists.zip
    python -m assets.builders.pretrain --data pictures.npz --output FOLDER

The architecture is OpenAI's CLIP class, only smaller, and the loss is CLIP's contrastive loss
(arXiv 2103.00020) with all true pairs of the batch as positives. `--token-weight` adds the same
loss on a token-level score: late interaction of image patches and words, as in FILIP (arXiv
2111.07783), with a soft maximum. Without it only the CLS state is trained.

The same seed gives the same weights on the same machine. Every few minutes and at the end, a
checkpoint and `clip.safetensors` (the moving average of the weights) are written to FOLDER. Rerun
the command to resume from the checkpoint.
"""

import argparse
import io
import json
import math
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save as save_tensors
from torch import nn
from tqdm import tqdm, trange

from trainers.prompting.backbones import build_clip
from trainers.prompting.storage.files import write_whole

from .captions import LOOK_NAMES, Captions
from .towers import contrastive, encode_image, encode_text, late_interaction, word_mask
from .views import augment

ARCH = {
    "embed_dim": 128,
    "image_resolution": 64,
    "vision_layers": 4,
    "vision_width": 128,
    "vision_patch_size": 8,
    "context_length": 77,
    "vocab_size": 49408,
    "transformer_width": 128,
    "transformer_heads": 2,
    "transformer_layers": 4,
}
PATCHES = (ARCH["image_resolution"] // ARCH["vision_patch_size"]) ** 2
TOKEN_PAIRS = 96  # pairs of the batch that the token-level term uses
KEPT = 32  # random patches of an image that are used in the first steps, which makes them faster
FULL = 0.85  # share of the steps after which all patches are used
KEEP_EVERY = 300  # seconds between checkpoints
ICON_WEIGHT = 0.5  # pictures of icon sets are drawn half as often as those of emoji sets


class Batch(NamedTuple):
    """Pictures and captions of a step.

    images: (B, 3, H, W); kept: (B, KEPT) indices of the patches to use, or None for all; tokens:
    (B, 77); ends: (B,) positions of EOS; truth: (B, B), 1 if caption j is true of picture i or 0.
    """

    images: torch.Tensor
    kept: torch.Tensor | None
    tokens: torch.Tensor
    ends: torch.Tensor
    truth: torch.Tensor


class Pictures:
    """The pictures to train on, with the facts that views and captions depend on.

    Args:
        data: the file written by `assets.builders.pictures`, as `numpy.load` reads it.
    """

    def __init__(self, data):
        meta = json.loads(str(data["meta"]))
        styles, emoji = meta["styles"], meta["emoji"]
        self.captions = Captions(emoji, ARCH["vocab_size"])
        self.images = torch.from_numpy(data["images"]).permute(0, 3, 1, 2).contiguous()
        self.emoji = torch.from_numpy(data["emoji"]).long()
        self.style = torch.from_numpy(data["style"]).long()
        self.is_mono = torch.tensor([s["look"] in ("line", "solid", "two-tone") for s in styles])
        self.looks = torch.zeros(len(styles), len(LOOK_NAMES), dtype=torch.bool)
        for row, style in zip(self.looks, styles, strict=True):
            for look in (style["look"], "emoji" if style["emoji"] else "icon"):
                row[LOOK_NAMES.index(look)] = True
        is_emoji = torch.tensor([style["emoji"] for style in styles])
        self.weight = torch.where(is_emoji & ~self.is_mono, 1.0, ICON_WEIGHT)[self.style]
        self.may_flip = torch.tensor([may_flip(item) for item in emoji])

    def draw(self, count, seed, step, few_patches) -> Batch:
        """Draw the batch of a step, which is the same for the same seed and step."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        chosen = torch.multinomial(self.weight, count, replacement=True, generator=generator)
        emoji, style = self.emoji[chosen], self.style[chosen]
        images, looks = augment(
            self.images[chosen], self.may_flip[emoji], self.is_mono[style], self.looks[style],
            generator,
        )  # fmt: skip
        tokens, ends, truth = self.captions.draw(emoji, looks, np.random.default_rng([seed, step]))
        kept = None
        if few_patches:
            kept = torch.rand(count, PATCHES, generator=generator).argsort(1)[:, :KEPT]
        return Batch(images, kept, tokens, ends, truth.float())


def may_flip(item):
    """Return True if captions of an emoji are also true of its mirror image."""
    return "arrow" not in item["subgroup"] and not {"left", "right"} & set(item["name"].split())


def losses(clip_model, batch):
    """Return CLIP's loss and the token-level term of a batch."""
    with torch.autocast("cpu", torch.bfloat16):
        seen = encode_image(clip_model, batch.images, batch.kept)
        read, sentence = encode_text(clip_model, batch.tokens, batch.ends)
    scale = clip_model.logit_scale.exp()
    loss = contrastive(seen[:, 0] @ sentence.T, batch.truth, scale)
    few = slice(TOKEN_PAIRS)
    words = slice(int(batch.ends[few].max()) - 1)
    mask = word_mask(read, batch.ends)[few, words]
    score = late_interaction(seen[few, 1:], read[few, words], mask)
    return loss, contrastive(score, batch.truth[few, few], scale)


class Pretraining:
    """A CLIP in training, with the moving average of its weights and the number of steps made.

    Its embedding table holds only the words in use, so that an update takes a tenth of the work.

    Args:
        word_ids: (V,) ids of CLIP's vocabulary that are in use.
        seed: of the initial weights.
    """

    def __init__(self, word_ids, seed):
        torch.manual_seed(seed)
        self.clip_model = build_clip(ARCH).train()
        table = nn.Embedding(len(word_ids), ARCH["transformer_width"])
        table.weight.data.copy_(self.clip_model.token_embedding.weight[word_ids])
        self.clip_model.token_embedding = table
        self.average = {key: value.clone() for key, value in self.clip_model.state_dict().items()}
        self.step = 0
        parameters = list(self.clip_model.parameters())
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.1},
                {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
            ],
            betas=(0.9, 0.98),
            fused=True,
        )

    def update(self, loss, rate):
        """Update the weights by a step of AdamW on a loss, and the moving average."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.clip_model.parameters(), 1.0)
        self.optimizer.step()
        self.clip_model.logit_scale.data.clamp_(max=math.log(100))
        decay = min(0.998, (1 + self.step) / (10 + self.step))
        for key, value in self.clip_model.state_dict().items():
            self.average[key].lerp_(value, 1 - decay)
        self.step += 1

    def save(self, path):
        """Write a checkpoint that `load` can resume from."""
        buffer = io.BytesIO()
        saved = {"model": self.clip_model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save({**saved, "average": self.average, "step": self.step}, buffer)
        write_whole(path, buffer.getvalue())

    def load(self, path):
        """Resume from a checkpoint that `save` wrote."""
        saved = torch.load(path, weights_only=True)
        self.clip_model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.average, self.step = saved["average"], saved["step"]

    def export(self, path, word_ids):
        """Write the moving average as `load_clip` reads it: float16, only embeddings in use."""
        state = {key: value.half().contiguous() for key, value in self.average.items()}
        state["token_embedding.rows"] = state.pop("token_embedding.weight")
        state["token_embedding.ids"] = word_ids
        write_whole(path, save_tensors(state, {"arch": json.dumps(ARCH)}))


def rate_factor(step, steps, warmup):
    """Return the factor of the learning rate: linear warm-up, then a cosine down to a hundredth."""
    warm = min(1.0, (step + 1) / warmup)
    return warm * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)


def train(args, pictures):
    """Train, and write checkpoint and weights every few minutes and at the end."""
    run = Pretraining(pictures.captions.ids, args.seed)
    checkpoint, weights = args.output / "checkpoint.pt", args.output / "clip.safetensors"
    if checkpoint.exists():
        run.load(checkpoint)
    kept_at, mean_losses = time.monotonic(), None
    for step in trange(run.step, args.steps, initial=run.step, total=args.steps, mininterval=5):
        batch = pictures.draw(args.batch, args.seed, step, few_patches=step < FULL * args.steps)
        loss, token_loss = losses(run.clip_model, batch)
        rate = args.lr * rate_factor(step, args.steps, args.warmup)
        run.update(loss + args.token_weight * token_loss if args.token_weight else loss, rate)
        found = np.array([loss.item(), token_loss.item()])
        if not np.isfinite(found).all():
            sys.exit(f"The loss is not finite at step {step}; the last checkpoint is kept")
        mean_losses = found if mean_losses is None else 0.95 * mean_losses + 0.05 * found
        if time.monotonic() - kept_at > KEEP_EVERY:
            run.save(checkpoint)
            run.export(weights, pictures.captions.ids)
            tqdm.write("step {}: loss {:.3f} token {:.3f}".format(step, *mean_losses))
            kept_at = time.monotonic()
    run.save(checkpoint)
    run.export(weights, pictures.captions.ids)
    print(f"{weights}: {run.step} steps, losses {mean_losses}")


def main():
    """Run the command line: pre-train a CLIP."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--data", type=Path, required=True, help="npz file of assets.builders.pictures")
    add("--output", type=Path, required=True, help="folder for the checkpoint and the weights")
    add("--steps", type=int, default=3178, help="(default: 3178, as for the embedded CLIP)")
    add("--batch", type=int, default=256)
    add("--lr", type=float, default=1.2e-3)
    add("--warmup", type=int, default=150, help="steps of the warm-up (default: 150)")
    add("--token-weight", type=float, default=0.0, help="of the token-level term (default: 0)")
    add("--seed", type=int, default=1)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    train(args, Pictures(np.load(args.data)))


if __name__ == "__main__":
    main()
