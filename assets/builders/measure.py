"""What the embedded data sets leave to gain: a table that does not depend on any method.

    python -m assets.builders.measure --weights trainers/prompting/embedded/emoji_clip.safetensors

For each data set with base and new classes it prints zero-shot accuracy with `a photo of a {}.` and
with one of some hand-written sentences about the pictures' look (the one that is best on training
and validation images of base and new classes), and the accuracy after tuning all LayerNorms of both
towers on the 16-shot training images of the base classes (an upper line, not a method: its rate is
chosen on validation images of base and new classes, one rate for all data sets). Also the cosine
between one word's sentences in several looks.
"""

import argparse
import json
import random
import zipfile
from collections import defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import nn

from trainers.prompting.backbones import load_clip
from trainers.prompting.backbones.openai_clip import clip

from .captions import LOOKS, PROMPT
from .towers import cut, encode_image, encode_text
from .zero_shot import WORD, read_images

OPENMOJI = [  # sentences that may say how pictures in a style look
    "an emoji of a {}.",
    "a cartoon of a {}.",
    "a comic of a {}.",
    "a flat picture of a {}.",
    "an icon of a {}.",
    "a symbol of a {}.",
    "a flat symbol of a {}.",
    "a {} on a white background.",
    "an icon of a {} on a white background.",
    "a flat emoji of a {} on a white background.",
]
FLUENT_3D = [
    "a glossy 3d picture of a {}.",
    "a shiny {}.",
    "a shaded picture of a {}.",
    "an emoji of a {}.",
    "a flat picture of a {}.",
    "a {} on a white background.",
    "a {} on a dark background.",
    "a small {}.",
]
SENTENCES = {
    "emoji": OPENMOJI,
    "emoji_blur": OPENMOJI,
    "emoji_fog": OPENMOJI,
    "emoji_hue": OPENMOJI,
    "emoji_dither": FLUENT_3D,
    "emoji_motion": FLUENT_3D,
    "emoji_night": FLUENT_3D,
    "emoji_pixels": FLUENT_3D,
}
SHOTS, BATCH = 16, 32
PARTS = ("base", "new")
CHOICE = "train+val"  # images that choose a sentence: no image is trained on for that
RATES = (5e-4, 1e-3, 2e-3, 4e-3)
EPOCHS = 15


class Task:
    """The images of a data set's base and new classes, and the names of both."""

    def __init__(self, archive, name):
        split = json.loads(archive.read(f"split_{name}.json"))
        names = [c for _, c in sorted({(row[1], row[2]) for row in split["test"]})]
        half = (len(names) + 1) // 2
        self.names = {"base": names[:half], "new": names[half:]}
        self.rows = [row for row in split["train"] if row[1] < half]
        self.images = {}
        parts = {"val": split["val"], CHOICE: split["train"] + split["val"], "test": split["test"]}
        for part, rows in parts.items():
            base = [row for row in rows if row[1] < half]
            new = [[path, label - half, name] for path, label, name in rows if label >= half]
            self.images[part, "base"] = read_images(archive, base)
            self.images[part, "new"] = read_images(archive, new)
        self.archive = archive

    def few_shot(self, seed):
        """Training images and labels, up to SHOTS of each base class."""
        classes = defaultdict(list)
        for row in self.rows:
            classes[row[1]].append(row)
        rng = random.Random(seed)
        chosen = [r for rows in classes.values() for r in rng.sample(rows, min(SHOTS, len(rows)))]
        return read_images(self.archive, chosen)


def text_features(model, names, template):
    """Features (len(names), D) of a sentence about each class, of norm 1."""
    tokens = clip.tokenize([template.format(name) for name in names])
    ends = tokens.argmax(1)
    return encode_text(model, cut(tokens, ends))[torch.arange(len(ends)), ends]


def random_crops(images):
    """Crops of 50 to 100% of the area, each image its own, resized to the whole."""
    count = len(images)
    side = (0.5 + 0.5 * torch.rand(count)).sqrt()
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, :, 2] = (2 * torch.rand(count, 2) - 1) * (1 - side[:, None])
    grid = F.affine_grid(theta, images.shape, align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def accuracy(model, images, labels, names, template=PROMPT):
    features = torch.cat([encode_image(model, chunk)[:, 0] for chunk in images.split(256)])
    hits = (features @ text_features(model, names, template).T).argmax(1) == labels
    return 100 * hits.float().mean().item()


def tune_norms(weights, task, rate, seed):
    """CLIP with the LayerNorms of both towers tuned on the training images."""
    torch.manual_seed(seed)
    model = load_clip(str(weights)).float()
    model.requires_grad_(False)
    parameters = []
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            parameters += list(module.requires_grad_(True).parameters())
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=0.0)
    images, labels = task.few_shot(seed)
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(images)).split(BATCH):
            features = encode_image(model, random_crops(images[chosen]))[:, 0]
            texts = text_features(model, task.names["base"], PROMPT)
            logits = model.logit_scale.exp() * features @ texts.T
            loss = F.cross_entropy(logits, labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def accuracies(model, task, where="test", template=PROMPT):
    """Percent on base and on new classes."""
    return [accuracy(model, *task.images[where, p], task.names[p], template) for p in PARTS]


def tune_at_best_rate(weights, tasks, seed):
    """The rate with the best mean accuracy on validation images, and {name: model} tuned with it.

    The mean is over all data sets, base and new classes.
    """
    models, means = {}, {}
    for rate in RATES:
        models[rate] = {name: tune_norms(weights, task, rate, seed) for name, task in tasks.items()}
        found = [accuracies(models[rate][name], task, "val") for name, task in tasks.items()]
        means[rate] = sum(map(sum, found)) / (len(found) * len(PARTS))
        print(f"LayerNorms, rate {rate:g}: {means[rate]:.1f} on validation images", flush=True)
    best = max(RATES, key=means.get)
    return best, models[best]


def measure(zero, tuned, name, task):
    """One row of the table, from the CLIP as it is and tuned with each seed."""
    best = max(SENTENCES[name], key=lambda text: sum(accuracies(zero, task, CHOICE, text)))
    found = [accuracies(model, task) for model in tuned]
    base, new = accuracies(zero, task)
    base_with_it, new_with_it = accuracies(zero, task, "test", best)
    base_tuned, new_tuned = (sum(each) / len(found) for each in zip(*found, strict=True))
    return {
        "data set": name,
        "classes": sum(map(len, task.names.values())),
        "test": sum(len(task.images["test", part][1]) for part in PARTS),
        "base": base,
        "new": new,
        "sentence": f"`{best}`",
        "base with it": base_with_it,
        "new with it": new_with_it,
        "base tuned": base_tuned,
        "new tuned": new_tuned,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--archive", type=Path, default="assets/emoji.zip")
    parser.add_argument("--datasets", nargs="+", default=list(SENTENCES), choices=list(SENTENCES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    args = parser.parse_args()
    with zipfile.ZipFile(args.archive) as archive:
        tasks = {name: Task(archive, name) for name in args.datasets}
        model = load_clip(str(args.weights)).float()
        rate, first = tune_at_best_rate(args.weights, tasks, args.seeds[0])
        rows = []
        for name, task in tasks.items():
            others = [tune_norms(args.weights, task, rate, seed) for seed in args.seeds[1:]]
            row = measure(model, [first[name], *others], name, task)
            rows.append({k: f"{v:.1f}" if isinstance(v, float) else v for k, v in row.items()})
            print(rows[-1], flush=True)
    print(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))
    with torch.no_grad():
        plain = text_features(model, [WORD], PROMPT)[0]
        looks = [template for templates in LOOKS.values() for template in templates]
        cosines = [(t, float(plain @ text_features(model, [WORD], t)[0])) for t in looks]
    print(tabulate(sorted(cosines, key=lambda c: -c[1]), ["sentence", "cosine"], floatfmt=".2f"))


if __name__ == "__main__":
    main()
