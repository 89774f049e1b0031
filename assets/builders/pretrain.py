"""Pre-train the embedded CLIP on emoji and icons, on two CPU cores, in half an hour.

    python -m assets.builders.pictures --packages FOLDER --output pictures.npz
    python -m assets.builders.pretrain --data pictures.npz --output FOLDER --minutes 25
    python -m assets.builders.pretrain --data pictures.npz --output FOLDER --export WEIGHTS

The architecture is OpenAI's CLIP class, only smaller, and the loss is CLIP's contrastive loss with
all true pairs of the batch as positives, plus the same loss on a token-level score: late
interaction of image patches and words, as in FILIP (Yao et al., 2022), with a soft maximum. CLIP's
loss trains the CLS state alone, and at this size the patch states would carry little meaning.

`--steps` fixes the number of steps (the same seed then gives the same weights on the same
machine); `--minutes` lets the cosine schedule follow the clock. A run that was stopped goes on from
its checkpoint when it is started again.
"""

import argparse
import io
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as save_tensors
from torch import nn
from tqdm import tqdm

from trainers.prompting.backbones import build_clip
from trainers.prompting.storage.files import write_whole

from .captions import LOOK_NAMES, Captions
from .towers import (
    contrastive,
    cut,
    encode_image,
    encode_text,
    late_interaction,
    word_mask,
)
from .views import augment
from .zero_shot import ZeroShot

ROOT = Path(__file__).resolve().parents[2]
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
TOKEN_PAIRS = 96  # the token-level term sees this many pairs of the batch
KEPT = 32  # of 64 patches, in random places, until FULL of the schedule: fewer, faster steps
FULL = 0.85
ICON_WEIGHT = 0.5  # pictures of icon sets are drawn half as often as those of emoji sets


def log(path, line):
    tqdm.write(line)
    with open(path, "a") as file:
        file.write(line + "\n")


def new_model(captions, seed):
    """A stock CLIP whose embedding table holds only the words in use: a tenth of the update."""
    torch.manual_seed(seed)
    model = build_clip(ARCH).train()
    table = nn.Embedding(len(captions.ids), ARCH["transformer_width"])
    table.weight.data.copy_(model.token_embedding.weight[captions.ids])
    model.token_embedding = table
    return model


def export(state, captions, path):
    """Write weights as `load_clip` reads them: float16, only the embedding rows in use."""
    state = {key: value.half().contiguous() for key, value in state.items()}
    state["token_embedding.rows"] = state.pop("token_embedding.weight")
    state["token_embedding.ids"] = captions.ids
    write_whole(path, save_tensors(state, {"arch": json.dumps(ARCH)}))


def train(args, data, captions):
    generator = torch.Generator()
    images = torch.from_numpy(data["images"]).permute(0, 3, 1, 2).contiguous()
    index = torch.from_numpy(data["emoji"]).long()
    style = torch.from_numpy(data["style"]).long()
    styles = json.loads(str(data["meta"]))["styles"]
    is_emoji = torch.tensor([item["emoji"] for item in styles])
    is_mono = torch.tensor([item["look"] in ("line", "solid", "two-tone") for item in styles])
    style_looks = torch.zeros(len(styles), len(LOOK_NAMES), dtype=torch.bool)
    for s, item in enumerate(styles):
        for look in (item["look"], "emoji" if item["emoji"] else "icon"):
            style_looks[s, LOOK_NAMES.index(look)] = True
    weight = torch.where(is_emoji & ~is_mono, 1.0, ICON_WEIGHT)[style]
    may_flip = torch.tensor(
        [
            "arrow" not in item["subgroup"] and not {"left", "right"} & set(item["name"].split())
            for item in captions.emoji
        ]
    )
    model = new_model(captions, args.seed)
    average = {key: value.clone() for key, value in model.state_dict().items()}
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=args.lr,
        betas=(0.9, 0.98),
        fused=True,
    )
    step, elapsed, checkpoint = 0, 0.0, args.output / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        average, step, elapsed = saved["average"], saved["step"], saved["elapsed"]
    evaluate = ZeroShot(args.archive, captions)
    bar = tqdm(
        total=args.steps or round(args.minutes * 60),
        initial=step if args.steps else round(elapsed),
        unit="step" if args.steps else "s",
        mininterval=5,
    )
    last = saved_at = evaluated_at = time.monotonic()
    running = None

    def save():
        saved = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average,
            "step": step,
            "elapsed": elapsed,
        }
        buffer = io.BytesIO()
        torch.save(saved, buffer)
        write_whole(checkpoint, buffer.getvalue())

    def report():
        shadow = new_model(captions, args.seed).eval()
        for name, state in (("raw", model.state_dict()), ("ema", average)):
            shadow.load_state_dict(state)
            numbers = " ".join(f"{key} {value:.3g}" for key, value in evaluate(shadow).items())
            log(args.output / "log.txt", f"  {name}: {numbers}")

    while (done := step / args.steps if args.steps else elapsed / (60 * args.minutes)) < 1:
        warm = min(1.0, (step + 1) / args.warmup)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * warm * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)
        generator.manual_seed(args.seed * 1_000_003 + step)  # a resumed run draws the same
        rng = np.random.default_rng([args.seed, step])
        chosen = torch.multinomial(weight, args.batch, replacement=True, generator=generator)
        emoji, s = index[chosen], style[chosen]
        pixels, looks = augment(
            images[chosen], may_flip[emoji], is_mono[s], style_looks[s], generator
        )
        tokens, ends, truth = captions.draw(emoji, looks, rng)
        truth = truth.float()
        kept = None
        if done < FULL:
            places = torch.rand(
                args.batch, model.visual.positional_embedding.shape[0] - 1, generator=generator
            )
            kept = places.argsort(1)[:, :KEPT]
        with torch.autocast("cpu", torch.bfloat16):
            seen = encode_image(model, pixels, kept)
            read = encode_text(model, cut(tokens, ends))
        sentence = read[torch.arange(len(read)), ends]
        scale = model.logit_scale.exp()
        loss = contrastive(seen[:, 0] @ sentence.T, truth, scale)
        few = TOKEN_PAIRS
        mask = word_mask(read, ends)[:few]
        longest = int(ends[:few].max()) - 1
        score = late_interaction(seen[:few, 1:], read[:few, :longest], mask[:, :longest])
        token_loss = contrastive(score, truth[:few, :few], scale)
        optimizer.zero_grad(set_to_none=True)
        (loss + args.token_weight * token_loss).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.logit_scale.data.clamp_(max=math.log(100))
        decay = min(0.998, (1 + step) / (10 + step))
        state = model.state_dict()
        torch._foreach_lerp_(list(average.values()), [state[key] for key in average], 1 - decay)
        step += 1

        now = time.monotonic()
        elapsed += now - last
        bar.update(1 if args.steps else round(elapsed) - bar.n)
        losses = np.array([loss.item(), token_loss.item()])
        if not np.isfinite(losses).all():
            sys.exit(f"The loss is not finite at step {step}; the last checkpoint is kept")
        running = losses if running is None else 0.95 * running + 0.05 * losses
        bar.set_postfix_str(f"step {step} loss {running[0]:.3f} token {running[1]:.3f}", False)
        if now - saved_at > 180:
            save()
            saved_at = now
        if now - evaluated_at > args.evaluate_every:
            log(
                args.output / "log.txt",
                f"step {step} {elapsed / 60:.1f} min loss {running[0]:.3f} token {running[1]:.3f} "
                f"scale {scale.item():.1f} {step * args.batch / elapsed:.0f} images/s",
            )
            report()
            evaluated_at = time.monotonic()
        last = now  # so the time of an evaluation counts
    bar.close()
    save()
    log(args.output / "log.txt", f"finished: {step} steps, {elapsed / 60:.1f} min")
    report()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="npz of assets.builders.pictures")
    parser.add_argument("--archive", type=Path, default=ROOT / "assets" / "emoji.zip")
    parser.add_argument("--output", type=Path, required=True, help="folder of the checkpoint")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--steps", type=int)
    length.add_argument("--minutes", type=float)
    length.add_argument("--export", type=Path, help="write the checkpoint as safetensors instead")
    parser.add_argument(
        "--weights",
        choices=["average", "model"],
        default="average",
        help="what to export: the moving average or the last step",
    )
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1.2e-3)
    parser.add_argument("--warmup", type=int, default=150, help="steps")
    parser.add_argument(
        "--token-weight", type=float, default=0.5, help="of the token-level term; 0: CLIP's loss"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--evaluate-every", type=float, default=300, help="seconds")
    args = parser.parse_args()
    data = np.load(args.data)
    captions = Captions(json.loads(str(data["meta"]))["emoji"], ARCH["vocab_size"])
    if args.export:
        saved = torch.load(args.output / "checkpoint.pt", weights_only=True)
        return export(saved[args.weights], captions, args.export)
    args.output.mkdir(parents=True, exist_ok=True)
    return train(args, data, captions)


if __name__ == "__main__":
    main()
