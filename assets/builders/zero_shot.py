"""Zero-shot accuracy of a model in pre-training, on data sets whose styles it never sees."""

import json
import zipfile

import numpy as np
import torch
from PIL import Image

from .captions import LOOKS, PROMPT
from .towers import cut, encode_image, encode_text
from .views import MEAN, STD

WORD = "dog"


def read_images(archive, rows):
    """Images (N, 3, H, W), normalised as CLIP's, and labels (N,) of rows of a split file."""
    images = []
    for path, _, _ in rows:
        with archive.open(f"images/{path}") as data:
            images.append(torch.from_numpy(np.array(Image.open(data).convert("RGB"))))
    images = torch.stack(images).permute(0, 3, 1, 2).float() / 255
    return (images - MEAN) / STD, torch.tensor([row[1] for row in rows])


class ZeroShot:
    """Accuracy on the test images of every data set that has the classes of `emoji`."""

    def __init__(self, archive, captions):
        self.captions = captions
        with zipfile.ZipFile(archive) as file:
            splits = {
                name[len("split_") : -len(".json")]: json.loads(file.read(name))
                for name in sorted(file.namelist())
                if name.startswith("split_")
            }
            classes = {
                name: [c for _, c in sorted({(row[1], row[2]) for row in split["test"]})]
                for name, split in splits.items()
            }
            self.classes = classes["emoji"]
            self.sets = {
                name: read_images(file, split["test"])
                for name, split in splits.items()
                if classes[name] == self.classes
            }

    @torch.no_grad()
    def __call__(self, model):
        """{data set/base or new: percent}, and the cosine of two looks of one word."""
        texts = self._sentences(model, [PROMPT.format(name) for name in self.classes])
        half = (len(self.classes) + 1) // 2
        result = {}
        for name, (images, labels) in self.sets.items():
            states = torch.cat([encode_image(model, chunk)[:, 0] for chunk in images.split(128)])
            score = states @ texts.T
            for part, low, high in (("base", 0, half), ("new", half, len(self.classes))):
                chosen = (labels >= low) & (labels < high)
                hit = score[chosen, low:high].argmax(1) + low == labels[chosen]
                result[f"{name}/{part}"] = 100 * hit.float().mean().item()
        looks = [LOOKS["solid"][0], LOOKS["line"][0]]
        plain, *others = self._sentences(model, [text.format(WORD) for text in [PROMPT, *looks]])
        for look, other in zip(("solid", "line"), others, strict=True):
            result[f"cosine/{look}"] = float(plain @ other)
        return result

    def _sentences(self, model, texts):
        tokens, ends = self.captions.tokens(texts)
        return encode_text(model, cut(tokens, ends))[torch.arange(len(ends)), ends]
