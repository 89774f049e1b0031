"""Measure how much tuning can gain on the embedded data sets, without any method of this project.

    python -m assets.builders.measure --weights trainers/prompting/embedded/emoji_clip.safetensors

For each data set with base and new classes, a table shows zero-shot accuracy, and the accuracy
after tuning all LayerNorms of both encoders on the few-shot training images of the base classes.
The latter is a rough upper bound, not a method: one learning rate for all data sets is chosen on
validation images of base and new classes (with `--choose-on base`, of base classes only). A second
table shows cosines between sentences about one word in different looks.
"""

import argparse
import json
import random
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tabulate import tabulate
from torch import nn
from torchvision.transforms.functional import normalize

from trainers.prompting.backbones import load_clip
from trainers.prompting.backbones.openai import OPENAI
from trainers.prompting.backbones.openai_clip import clip

from .archive import DATASETS
from .artists import DATASETS as OF_ARTISTS
from .captions import LOOKS, PROMPT
from .towers import encode_image, encode_text

HALVES = ("base", "new")  # of the classes
WORD = "dog"
BATCH, EPOCHS = 32, 15
RATES = (5e-4, 1e-3, 2e-3, 4e-3)


def read_images(archive, rows):
    """Read images (N, 3, H, W), normalised as for CLIP, and labels (N,) of rows in a split file."""
    pictures = []
    for path, _, _ in rows:
        with archive.open(f"images/{path}") as data:
            pictures.append(np.array(Image.open(data).convert("RGB")))
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    return normalize(images, OPENAI.mean, OPENAI.std), torch.tensor([row[1] for row in rows])


class BaseToNew:
    """The rows and images of a data set, by base and new classes.

    Attributes:
        names: class names of each half, `base` and `new`.
    """

    def __init__(self, archive, dataset, shots):
        self.shots = shots
        self.archive, self.split = archive, json.loads(archive.read(f"split_{dataset}.json"))
        names = [name for _, name in sorted({(row[1], row[2]) for row in self.split["test"]})]
        middle = (len(names) + 1) // 2
        self.names = {"base": names[:middle], "new": names[middle:]}
        self.read = {}

    def rows(self, half, part):
        """Return the rows of a half and part of the split; labels count from 0 in each half."""
        names = self.names[half]
        rows = self.split[part]
        return [[path, names.index(name), name] for path, _, name in rows if name in names]

    def images(self, half, part):
        """Return images and labels as `read_images` does, reading them only once."""
        if (half, part) not in self.read:
            self.read[half, part] = read_images(self.archive, self.rows(half, part))
        return self.read[half, part]

    def few_shot(self, seed):
        """Draw training images and labels, up to `shots` of each base class."""
        classes = defaultdict(list)
        for row in self.rows("base", "train"):
            classes[row[1]].append(row)
        rng = random.Random(seed)
        chosen = [
            r for rows in classes.values() for r in rng.sample(rows, min(self.shots, len(rows)))
        ]
        return read_images(self.archive, chosen)


def text_features(model, names, template=PROMPT):
    """Return normalised features (len(names), D) of a sentence about each class."""
    tokens = clip.tokenize([template.format(name) for name in names])
    return encode_text(model, tokens, tokens.argmax(1))[1]


@torch.no_grad()
def accuracies(model, data, part):
    """Return accuracies (%) on base and on new classes, for a part of the split."""
    found = []
    for half in HALVES:
        images, labels = data.images(half, part)
        features = torch.cat([encode_image(model, chunk)[:, 0] for chunk in images.split(256)])
        hits = (features @ text_features(model, data.names[half]).T).argmax(1) == labels
        found.append(100 * hits.float().mean().item())
    return found


def random_crops(images):
    """Crop 50 to 100% of each image's area at random, and resize to the full size."""
    count = len(images)
    side = (0.5 + 0.5 * torch.rand(count)).sqrt()
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, :, 2] = (2 * torch.rand(count, 2) - 1) * (1 - side[:, None])
    grid = F.affine_grid(theta, images.shape, align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def tune_norms(weights, data, rate, seed):
    """Return a CLIP with the LayerNorms of both encoders tuned on the training images."""
    torch.manual_seed(seed)
    model = load_clip(str(weights)).float()
    model.requires_grad_(False)
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    parameters = [p for norm in norms for p in norm.requires_grad_(True).parameters()]
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=0.0)
    images, labels = data.few_shot(seed)
    steps = EPOCHS * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(images)).split(BATCH):
            features = encode_image(model, random_crops(images[chosen]))[:, 0]
            texts = text_features(model, data.names["base"])
            logits = model.logit_scale.exp() * features @ texts.T
            loss = F.cross_entropy(logits, labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def best_rate(weights, datasets, seed, halves):
    """Return the learning rate with the best mean accuracy on validation images of all data sets.

    Args:
        weights: file of the CLIP.
        datasets: a BaseToNew by the name of its data set.
        seed: of tuning.
        halves: of the classes that count, `base`, `new` or both.
    """
    means = {}
    for rate in RATES:
        found = [
            accuracies(tune_norms(weights, data, rate, seed), data, "val")
            for data in datasets.values()
        ]
        means[rate] = np.mean(np.array(found)[:, [HALVES.index(half) for half in halves]])
        print(f"LayerNorms, rate {rate:g}: {means[rate]:.1f} on validation images", flush=True)
    return max(means, key=means.__getitem__)


def row(name, data, clip_model, tuned):
    """Return a row of the table, from the CLIP as it is and the CLIPs tuned with each seed."""
    found = {
        "data set": name,
        "classes": sum(map(len, data.names.values())),
        "test": sum(len(data.rows(half, "test")) for half in HALVES),
    }
    found["base"], found["new"] = accuracies(clip_model, data, "test")
    if tuned:
        percents = np.mean([accuracies(model, data, "test") for model in tuned], axis=0)
        found["base tuned"], found["new tuned"] = percents.tolist()
    return found


def main():
    """Run the command line: measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--archive", type=Path, default="assets/emoji.zip")
    parser.add_argument(
        "--datasets", nargs="+", default=list(DATASETS), choices=[*DATASETS, *OF_ARTISTS]
    )
    parser.add_argument("--shots", type=int, default=16, help="of each base class (default: 16)")
    parser.add_argument("--choose-on", nargs="+", default=HALVES, choices=HALVES)
    parser.add_argument(
        "--seeds", nargs="*", type=int, default=[1, 2, 3], help="of tuning; none: zero-shot only"
    )
    args = parser.parse_args()
    clip_model = load_clip(str(args.weights)).float()
    with zipfile.ZipFile(args.archive) as archive:
        datasets = {name: BaseToNew(archive, name, args.shots) for name in args.datasets}
        rate = None
        if args.seeds:
            rate = best_rate(args.weights, datasets, args.seeds[0], args.choose_on)
        rows = []
        for name, data in datasets.items():
            tuned = [tune_norms(args.weights, data, rate, seed) for seed in args.seeds]
            rows.append(row(name, data, clip_model, tuned))
            print(rows[-1], flush=True)
    print(tabulate(rows, headers="keys", tablefmt="github", floatfmt=".1f"))
    templates = [template for look in LOOKS.values() for template in look]
    with torch.no_grad():
        plain = text_features(clip_model, [WORD])[0]
        cosines = [(t, float(plain @ text_features(clip_model, [WORD], t)[0])) for t in templates]
    print(tabulate(sorted(cosines, key=lambda c: -c[1]), ["sentence", "cosine"], floatfmt=".2f"))


if __name__ == "__main__":
    main()
