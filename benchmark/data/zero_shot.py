"""Compare zero-shot CLIP on public data sets with published accuracies, before any training.

If they agree, data, split, class names, templates, weights and preprocessing are right.

Letters: n images, K classes, D the width of features.
"""

import math
from collections.abc import Sequence
from operator import eq
from typing import TYPE_CHECKING, Any, NamedTuple

from tabulate import tabulate
from tqdm import tqdm

from trainers.prompting.errors import UserError

from ..protocols import PROTOCOLS
from ..report import published

if TYPE_CHECKING:
    import torch

TRAINER = "ZeroshotCLIP"
BACKBONE = published.BACKBONE
SPLITS = ("base", "new", "all")
TOLERANCE = 0.1  # points of accuracy (%): for half precision and the last printed digit
BATCH = 100


class Compared(NamedTuple):
    """A data set's number of test images and accuracies (%) by split, and the published ones."""

    name: str
    images: int
    found: dict[str, float]
    printed: dict[str, float]

    @property
    def agrees(self) -> bool:
        """True if the accuracies agree in the splits that decide."""
        pairs = ((self.found[x], self.printed[x]) for x in deciding_splits(self.printed))
        return all(abs(found - printed) <= TOLERANCE + 5e-3 for found, printed in pairs)


def class_names(train: list, test: list) -> list[str]:
    """Return the names by label."""
    return [name for _, name in sorted({d.label: d.classname for d in train or test}.items())]


def printed_numbers(name: str) -> dict[str, float]:
    """Return the published accuracies (%) of zero-shot CLIP on a data set, by split."""
    by_split: dict[str, float] = {}
    for protocol, splits in (
        ("cross_dataset", {"accuracy": "all"}),
        ("domain_generalization", {"accuracy": "all"}),
        ("base2new", {"base": "base", "new": "new"}),
    ):
        numbers = published.find(PROTOCOLS[protocol], TRAINER, name, published.SHOTS)
        if numbers and not numbers.misprint:
            by_split |= {split: numbers.values[column] for column, split in splits.items()}
    return by_split


def deciding_splits(printed: dict[str, float]) -> list[str]:
    """Return the splits that decide: base and new, on which papers agree, else all classes."""
    return [split for split in ("base", "new") if split in printed] or list(printed)


class Checker:
    """Classifies test images by their class names with a CLIP, and compares the accuracies."""

    def __init__(self, backbone: str = BACKBONE):
        import torch

        from trainers.prompting import load_clip

        self.backbone = backbone
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.clip = load_clip(backbone).to(self.device)

    def compare(self, name: str, cls: Any, parts: Sequence[list]) -> Compared:
        """Classify the test images of a data set and compare with the published accuracies.

        `parts` are train, val and test, lists of Datum.
        """
        train, _, test = parts
        names = class_names(train, test)
        logits = self._logits(cls.__name__, names, self._features(cls.__name__, test))
        return Compared(name, len(test), accuracies(logits, test), printed_numbers(name))

    def try_sentences(
        self, name: str, cls: Any, parts: Sequence[list], asked: Sequence[Any]
    ) -> list[float]:
        """Return accuracies (%) on validation images: of the data set's own sentence, then others.

        Args:
            name: of the data set.
            cls: its class.
            parts: train, val and test, lists of Datum.
            asked: an `Asked` for each.
        """
        train, val, test = parts
        names, title = class_names(train, test), cls.__name__
        if not val or {item.impath for item in val} & {item.impath for item in test}:
            raise UserError(
                f"{name} lacks validation images apart from its test images, on which no sentence "
                "may be chosen: leave it out"
            )
        for one in asked:  # bad sentences are refused before images are read
            note = self._method(title, names, one).settings.sentences.note
            print(f"{title}: {note}")
        z, labels = self._features(title, val), [item.label for item in val]
        guesses = (self._logits(title, names, z, one).argmax(1).tolist() for one in (None, *asked))
        return [100 * sum(map(eq, guess, labels)) / len(labels) for guess in guesses]

    def _features(self, title: str, items: list) -> "torch.Tensor":
        """Return features (n, D) of images, read and transformed as in a run."""
        import torch
        from dassl.utils import read_image

        from trainers.prompting.building.encoding import encode_images, plain_encoder
        from trainers.prompting.building.transforms import Plain

        method, images = plain_encoder(self.clip)
        transform, features = Plain(images), []
        with tqdm(total=len(items), desc=title, unit="image", leave=False, disable=None) as bar:
            read = lambda item: transform(read_image(item.impath))  # noqa: E731
            for batch, _, z in encode_images(method, items, read, BATCH):
                features.append(torch.nn.functional.normalize(z, dim=-1))
                bar.update(len(batch))
        return torch.cat(features)

    def _method(self, dataset: str, names: list[str], sentences: Any = None) -> Any:
        from trainers.prompting import build_method

        method = build_method(TRAINER, {}, self.clip, names, dataset, sentences=sentences)
        return method.eval().to(self.device)

    def _logits(
        self, dataset: str, names: list[str], z: "torch.Tensor", sentences: Any = None
    ) -> "torch.Tensor":
        """Return logits (n, K) of images with these features (n, D)."""
        import torch

        with torch.inference_mode():
            return self._method(dataset, names, sentences)(z.to(self.device)).cpu()


def accuracies(logits: "torch.Tensor", test: list) -> dict[str, float]:
    """Return the accuracy (%) of each split: the first half of the classes, the others, and all.

    It is nan without images.
    """
    import torch

    labels, K = torch.tensor([item.label for item in test]), logits.shape[1]
    half, by_split = (K + 1) // 2, {}
    for split, members in zip(SPLITS, (range(half), range(half, K), range(K)), strict=True):
        of_split = (labels >= members.start) & (labels < members.stop)
        guess = members.start + logits[of_split, members.start : members.stop].argmax(-1)
        by_split[split] = 100 * (guess == labels[of_split]).double().mean().item()
    return by_split


def render(results: list[Compared], checker: Checker) -> str:
    """Return the table, and below it the data sets that do not agree."""
    head = ["Zero-shot CLIP (%)", "Images", *(w for s in SPLITS for w in (s.title(), "Published"))]
    rows = [
        [
            case.name,
            f"{case.images:,}",
            *(
                cell
                for split in SPLITS
                for cell in (f"{case.found[split]:.2f}", f"{case.printed.get(split, math.nan):.2f}")
            ),
        ]
        for case in results
    ]
    rows = [["-" if cell == "nan" else cell for cell in row] for row in rows]
    table = tabulate(rows, head, colalign=["left", *["right"] * 7], disable_numparse=True)
    wrong = [case.name for case in results if not case.agrees]
    note = (
        f"{checker.backbone} in float32 on {checker.device.type}. Base and new must agree within "
        f"{TOLERANCE} (All, where only that is published); papers differ in All by some tenths."
    )
    last = f"{len(results) - len(wrong)} of {len(results)} agree with the published numbers"
    if wrong:
        last += f", which are of OpenAI's {BACKBONE}; these do not: {', '.join(wrong)}"
    return "\n".join([table, note, last])


def render_sentences(sentences: Sequence[str], tried: dict[str, list[float]], backbone: str) -> str:
    """Return the table of accuracies by sentences and data set."""
    columns = [[f"{value:.2f}" for value in accuracies] for accuracies in tried.values()]
    rows = zip(["own sentence", *sentences], *columns, strict=True)
    align = ["left", *["right"] * len(columns)]
    table = tabulate(rows, ["Sentences", *tried], colalign=align, disable_numparse=True)
    return f"{table}\nZero-shot CLIP ({backbone}), accuracy in % on validation images."


def check_printed(names: Sequence[str]) -> None:
    """Raise UserError for the first data set without a published zero-shot accuracy."""
    for name in names:
        if not printed_numbers(name):
            raise UserError(
                f"benchmark/report/published_csv has no zero-shot accuracy for {name}: leave it "
                "out, or check it without --zero-shot"
            )
