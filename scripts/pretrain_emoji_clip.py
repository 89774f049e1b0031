"""Pre-train the embedded CLIP on emoji, on two CPU cores, in about an hour.

It is long because data, augmentation, losses and schedule of one model belong together.

    python scripts/build_emoji.py --packages FOLDER --pretrain-out emoji.npz
    python scripts/pretrain_emoji_clip.py --data emoji.npz --output FOLDER --minutes 60
    python scripts/pretrain_emoji_clip.py --data emoji.npz --output FOLDER --export WEIGHTS

The architecture is OpenAI's CLIP class, only smaller, and the loss is CLIP's contrastive loss with
all true pairs of the batch as positives, plus the same loss on a token-level score: late
interaction of image patches and words, as in FILIP (Yao et al., 2022), with a soft maximum. CLIP's
loss trains the CLS state alone, and at this size the patch states would carry little meaning.

`--steps` fixes the number of steps (the same seed then gives the same weights on the same
machine); `--minutes` lets the cosine schedule follow the clock. A run that was stopped goes on from
its checkpoint when it is started again.
"""

import argparse
import json
import math
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from trainers.prompting.backbones import build_clip  # noqa: E402
from trainers.prompting.backbones.openai_clip import clip  # noqa: E402

tokenize = clip.tokenize

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
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
PROMPT = "a photo of a {}."
TEMPLATES = {
    PROMPT: 0.5,
    "a picture of a {}.": 0.1,
    "an emoji of a {}.": 0.1,
    "an icon of a {}.": 0.05,
    "a drawing of a {}.": 0.05,
    "a photo of the {}.": 0.05,
    "{}.": 0.15,
}
FILLINGS = {"subgroup": 0.3, "name": 0.45, "alias": 0.05, "tag": 0.12, "both": 0.08}
SMOOTHING = 0.1
TOKEN_WEIGHT = 0.5
TOKEN_PAIRS = 96  # the token-level term sees this many pairs of the batch
KEPT = 32  # of 64 patches, in random places, until FULL of the schedule: fewer, faster steps
FULL = 0.85
SOFT_MAX = 0.1  # temperature of the soft maximum, the regularisation of ALIGN's transport
LINES = 0.25  # share of images drawn as lines


class Captions:
    """Random captions of emoji, and which emoji each of them is true of.

    Attributes:
        ids: (V,) the ids of CLIP's vocabulary that captions use, sorted.
        truth: (F, E) bool, whether filling f is true of emoji e.
    """

    def __init__(self, emoji):
        self.emoji = emoji
        true_of = {}
        self.options = []
        for e, item in enumerate(emoji):
            options = {
                "subgroup": [item["subgroup"]],
                "name": [item["name"]],
                "alias": [item["unicode_name"]]
                + [short.replace("_", " ") for short in item["short_names"]],
                "tag": item["tags"] or [item["name"]],
                "both": [f"{item['name']}, a kind of {item['subgroup']}"],
            }
            self.options.append(options)
            for fillings in options.values():
                for filling in fillings:
                    true_of.setdefault(filling, set()).add(e)
        self.number = {filling: f for f, filling in enumerate(true_of)}
        self.truth = torch.zeros(len(true_of), len(emoji), dtype=torch.bool)
        for filling, members in true_of.items():
            self.truth[self.number[filling], list(members)] = True
        self.cache = {}
        # BPE works word by word, so these are the ids of all captions
        words = tokenize([*self.number, *TEMPLATES, "this is a photo of one"], truncate=True)
        self.ids = words.unique()[1:]  # 0 is padding
        self.row = torch.zeros(ARCH["vocab_size"], dtype=torch.long)
        self.row[self.ids] = torch.arange(len(self.ids))

    def tokens(self, texts):
        """(len(texts), 77) rows of the compact table, and (len(texts),) positions of EOS."""
        for text in texts:
            if text not in self.cache:
                ids = tokenize(text, truncate=True)[0]
                self.cache[text] = (self.row[ids], int(ids.argmax()))
        rows, ends = zip(*(self.cache[text] for text in texts), strict=True)
        return torch.stack(rows), torch.tensor(ends)

    def draw(self, index, rng):
        """One caption for each emoji of `index`: tokens, EOS positions, filling numbers (B,)."""
        kinds = rng.choice(list(FILLINGS), size=len(index), p=list(FILLINGS.values()))
        templates = rng.choice(list(TEMPLATES), size=len(index), p=list(TEMPLATES.values()))
        texts, fillings = [], []
        for e, kind, template in zip(index.tolist(), kinds, templates, strict=True):
            options = self.options[e][kind]
            filling = options[rng.integers(len(options))]
            if not any(c.isalnum() for c in filling):  # a tag like ":)" may leave no word at all
                filling = self.options[e]["name"][0]
            texts.append(template.format(filling))
            fillings.append(self.number[filling])
        return *self.tokens(texts), torch.tensor(fillings)


def normalise(layer, x):
    """LayerNorm that keeps bfloat16 (its statistics are float32 inside): CLIP's own casts twice."""
    return F.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)


def run_block(block, x, causal):
    """One stock residual block on (B, L, width), batch first and with fused attention."""
    batch, length, width = x.shape
    attn = block.attn
    qkv = F.linear(normalise(block.ln_1, x), attn.in_proj_weight, attn.in_proj_bias)
    q, k, v = qkv.view(batch, length, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    heads = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    x = x + attn.out_proj(heads.transpose(1, 2).reshape(batch, length, width))
    hidden = block.mlp.c_fc(normalise(block.ln_2, x))
    return x + block.mlp.c_proj(F.silu(1.702 * hidden) / 1.702)  # QuickGELU in two fast steps


def encode_image(model, images, kept=None):
    """All normalised states (B, 1 + P, D) of images (B, 3, H, W); the first is CLS.

    kept: (B, P') indices of the patches to use, as in FLIP (Li et al., 2023); all when None.
    """
    vision = model.visual
    x = vision.conv1(images).flatten(2).transpose(1, 2)
    position = vision.positional_embedding.to(x.dtype)
    x = x + position[1:]
    if kept is not None:
        x = x.gather(1, kept[..., None].expand(-1, -1, x.shape[2]))
    cls = (vision.class_embedding.to(x.dtype) + position[:1]).expand(len(x), 1, -1)
    x = normalise(vision.ln_pre, torch.cat([cls, x], 1))
    for block in vision.transformer.resblocks:
        x = run_block(block, x, causal=False)
    return F.normalize((normalise(vision.ln_post, x) @ vision.proj).float(), dim=-1)


def encode_text(model, tokens):
    """All normalised states (B, L, D) of captions (B, L), cut to the longest of them."""
    x = model.token_embedding(tokens) + model.positional_embedding[: tokens.shape[1]]
    if torch.is_autocast_enabled("cpu"):
        x = x.bfloat16()
    for block in model.transformer.resblocks:
        x = run_block(block, x, causal=True)
    return F.normalize((normalise(model.ln_final, x) @ model.text_projection).float(), dim=-1)


def cut(tokens, ends):
    return tokens[:, : int(ends.max()) + 1]


def word_mask(states, ends):
    """(B, L) bool: the tokens between SOS and the closing full stop, both left out."""
    position = torch.arange(states.shape[1])
    return (position >= 1) & (position <= ends[:, None] - 2)


def late_interaction(patches, words, mask):
    """Token-level similarity (B, T) of patches (B, P, D) and words (T, L, D), mask (T, L).

    The mean of two: each patch with its best words, and each word with its best patches, where
    "best" is a softmax whose weights are constants in the backward pass.
    """
    cos = torch.einsum("bpd,tld->btpl", patches, words)
    with torch.no_grad():
        kernel = torch.exp((cos - 1) / SOFT_MAX) * mask[:, None]
        count = mask.sum(1).view(-1, 1, 1)
        weight = kernel / kernel.sum(3, keepdim=True) / cos.shape[2]
        weight += kernel / kernel.sum(2, keepdim=True).clamp(min=1e-12) / count
    return (weight * cos).sum((2, 3)) / 2


def contrastive(similarity, truth, scale):
    """CLIP's symmetric loss on (B, B); all true pairs are positives, with label smoothing."""
    logits = scale * similarity

    def one_way(logits, truth):
        target = truth / truth.sum(1, keepdim=True)
        target = (1 - SMOOTHING) * target + SMOOTHING / logits.shape[1]
        return -(target * F.log_softmax(logits, 1)).sum(1).mean()

    return (one_way(logits, truth) + one_way(logits.T, truth.T)) / 2


def uniform(shape, low, high, generator):
    return torch.rand(shape, generator=generator) * (high - low) + low


def chance(count, p, generator):
    """(count, 1, 1, 1) bool, true with probability p."""
    return torch.rand(count, 1, 1, 1, generator=generator) < p


def augment(rgba, may_flip, generator):
    """Random views of emoji: (B, 4, H, W) uint8 and (B,) bool to (B, 3, H, W) normalised."""
    count = len(rgba)
    g = generator
    x = rgba.float() / 255
    x = torch.cat([x[:, :3] * x[:, 3:], x[:, 3:]], 1)  # premultiplied: no fringes

    angle = uniform(count, -0.35, 0.35, g) * (torch.rand(count, generator=g) < 0.7)
    zoom = 1 / uniform(count, 0.72, 1.15, g)
    flip = torch.where(may_flip & (torch.rand(count, generator=g) < 0.4), -1.0, 1.0)
    stretch = uniform(count, 0.88, 1.12, g)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = angle.cos() * zoom * flip * stretch
    theta[:, 0, 1] = -angle.sin() * zoom * stretch
    theta[:, 1, 0] = angle.sin() * zoom * flip
    theta[:, 1, 1] = angle.cos() * zoom
    theta[:, :, 2] = uniform((count, 2), -0.18, 0.18, g)
    grid = F.affine_grid(theta, x.shape, align_corners=False)
    x = F.grid_sample(x, grid, align_corners=False)
    colour, alpha = x[:, :3], x[:, 3:]

    coloured, plain = (torch.rand(count, n, 1, 1, generator=g) for n in (3, 1))
    ground = torch.where(chance(count, 0.5, g), coloured, plain)
    ground = torch.where(chance(count, 0.5, g), torch.ones(()), ground)
    # a soft light over the object, as on glossy and three-dimensional styles
    light = uniform((count, 1, 3, 3), -0.3, 0.3, g) * chance(count, 0.6, g)
    light = F.interpolate(light, x.shape[2:], mode="bilinear", align_corners=True)
    shaded = (colour * (1 + light)).clamp(max=1)
    painted = shaded + (1 - alpha) * ground
    grey = painted.mean(1, keepdim=True)
    keep = torch.where(chance(count, 0.15, g), 0.0, uniform((count, 1, 1, 1), 0.5, 1.5, g))
    painted = grey + keep * (painted - grey)
    painted = painted * uniform((count, 3, 1, 1), 0.85, 1.15, g)
    contrast = uniform((count, 1, 1, 1), 0.7, 1.3, g)
    painted = (painted - 0.5) * contrast + 0.5 + uniform((count, 1, 1, 1), -0.1, 0.1, g)

    lines = (torch.rand(count, generator=g) < LINES).nonzero().squeeze(1)
    if len(lines):
        painted[lines] = draw_lines(colour[lines], alpha[lines], g)
    return (painted.clamp(0, 1) - MEAN) / STD


def draw_lines(colour, alpha, generator):
    """Dark outlines on white, with or without the colours between them."""
    count, g = len(colour), generator
    flat = colour + 1 - alpha
    channels = torch.cat([flat.mean(1, keepdim=True), alpha, flat[:, 1:2] - flat[:, 2:3]], 1)
    sobel = torch.tensor([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]]) / 4
    kernel = torch.stack([sobel, sobel.T])[:, None]
    edge = F.conv2d(F.pad(channels, [1] * 4, mode="replicate").flatten(0, 1)[:, None], kernel)
    edge = edge.square().sum(1).sqrt().view(count, 3, *edge.shape[2:]).amax(1, keepdim=True)
    edge = ((edge - 0.08) * uniform((count, 1, 1, 1), 1.5, 5, g)).clamp(0, 1)
    edge = torch.where(chance(count, 0.4, g), F.max_pool2d(edge, 3, 1, 1), edge)
    fade = torch.where(chance(count, 0.5, g), 0.0, uniform((count, 1, 1, 1), 0.3, 1, g))
    ink = uniform((count, 1, 1, 1), 0.7, 1, g)
    return (1 - fade * (1 - flat)) * (1 - ink * edge)


class Evaluation:
    """Zero-shot accuracy on the shipped archive, whose styles are not in pre-training."""

    def __init__(self, archive, captions):
        self.captions = captions
        self.names = [item["name"] for item in captions.emoji]
        number = {item["code"]: e for e, item in enumerate(captions.emoji)}
        with zipfile.ZipFile(archive) as file:
            self.splits = json.loads(file.read("split_emoji.json"))
            rows = {part: self.splits[part] for part in ("val", "test")}
            for style in ("3d", "sketch"):
                rows[style] = json.loads(file.read(f"split_emoji_{style}.json"))["test"]
            self.sets = {part: self._load(file, entries) for part, entries in rows.items()}
            everything = [row for part in self.splits.values() for row in part]
            self.whole, _ = self._load(file, everything)
            self.whole_name = torch.tensor([number[Path(row[0]).stem] for row in everything])
        self.classes = [name for _, name in sorted({(row[1], row[2]) for row in everything})]

    @staticmethod
    def _load(file, rows):
        images = []
        for path, _, _ in rows:
            with file.open(f"images/{path}") as data:
                images.append(torch.from_numpy(np.array(Image.open(data).convert("RGB"))))
        images = torch.stack(images).permute(0, 3, 1, 2).float() / 255
        return (images - MEAN) / STD, torch.tensor([row[1] for row in rows])

    @torch.no_grad()
    def __call__(self, model):
        """{measure: percent}; `tok` scores by late interaction, `mean` by the mean cosine."""
        texts, mask = self._texts(model, self.classes)
        sentences = texts[torch.arange(len(texts)), mask.sum(1) + 2]  # SOS, words, '.', EOS
        half = (len(self.classes) + 1) // 2
        result = {}
        for part, (images, labels) in self.sets.items():
            states = torch.cat([encode_image(model, chunk) for chunk in images.split(128)])
            scores = {"cls": states[:, 0] @ sentences.T}
            if part in ("val", "test"):
                chunks = states[:, 1:].split(64)
                scores["tok"] = torch.cat([late_interaction(c, texts, mask) for c in chunks])
                mean = (texts * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
                scores["mean"] = states[:, 1:].mean(1) @ mean.T
            for kind, score in scores.items():
                for name, low, high in (
                    ("all", 0, len(self.classes)),
                    ("base", 0, half),
                    ("new", half, len(self.classes)),
                ):
                    chosen = (labels >= low) & (labels < high)
                    hit = score[chosen, low:high].argmax(1) + low == labels[chosen]
                    result[f"{part}/{kind}/{name}"] = 100 * hit.float().mean().item()
        texts, mask = self._texts(model, self.names)
        sentences = texts[torch.arange(len(texts)), mask.sum(1) + 2]
        states = torch.cat([encode_image(model, chunk)[:, 0] for chunk in self.whole.split(128)])
        hit = (states @ sentences.T).argmax(1) == self.whole_name
        result["names"] = 100 * hit.float().mean().item()
        return result

    def _texts(self, model, names):
        tokens, ends = self.captions.tokens([PROMPT.format(name) for name in names])
        states = encode_text(model, cut(tokens, ends))
        return states, word_mask(states, ends)


def log(path, line):
    tqdm.write(line)
    with open(path, "a") as file:
        file.write(line + "\n")


def save_atomically(path, write):
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    temporary.replace(path)


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
    save_atomically(path, lambda p: save_file(state, p, {"arch": json.dumps(ARCH)}))


def train(args, data, captions):
    generator = torch.Generator()
    images = torch.from_numpy(data["images"]).permute(0, 3, 1, 2).contiguous()
    index = torch.from_numpy(data["emoji"]).long()
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
    evaluate = Evaluation(args.archive, captions)
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
        save_atomically(checkpoint, lambda path: torch.save(saved, path))

    def report():
        shadow = new_model(captions, args.seed).eval()
        for name, state in (("raw", model.state_dict()), ("ema", average)):
            shadow.load_state_dict(state)
            numbers = " ".join(f"{key} {value:.1f}" for key, value in evaluate(shadow).items())
            log(args.output / "log.txt", f"  {name}: {numbers}")

    while (done := step / args.steps if args.steps else elapsed / (60 * args.minutes)) < 1:
        warm = min(1.0, (step + 1) / args.warmup)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * warm * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)
        generator.manual_seed(args.seed * 1_000_003 + step)  # a resumed run draws the same
        rng = np.random.default_rng([args.seed, step])
        chosen = torch.randint(len(images), (args.batch,), generator=generator)
        emoji = index[chosen]
        pixels = augment(images[chosen], may_flip[emoji], generator)
        tokens, ends, fillings = captions.draw(emoji, rng)
        truth = captions.truth[fillings][:, emoji].T.float()  # (image, caption)
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
        (loss + TOKEN_WEIGHT * token_loss).backward()
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
    parser.add_argument("--data", type=Path, required=True, help="npz of build_emoji.py")
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
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--evaluate-every", type=float, default=300, help="seconds")
    args = parser.parse_args()
    data = np.load(args.data)
    captions = Captions(json.loads(str(data["meta"]))["emoji"])
    if args.export:
        saved = torch.load(args.output / "checkpoint.pt", weights_only=True)
        return export(saved[args.weights], captions, args.export)
    args.output.mkdir(parents=True, exist_ok=True)
    return train(args, data, captions)


if __name__ == "__main__":
    main()
