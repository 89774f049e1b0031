"""Compare zero-shot CLIP on public data sets with published accuracies, before any training.

If they agree, data, split, class names, templates, weights and preprocessing are right. If not, the
most likely cause is reported.

Letters: n images, K classes, D the width of features.
"""

import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
Z = 2.576  # for 99% intervals, since some twenty numbers are compared
BATCH, THREADS = 100, 8


class Share(NamedTuple):
    """An accuracy: `right` of n images, which were drawn from N."""

    right: int
    n: int
    N: int

    @property
    def accuracy(self) -> float:
        """The accuracy in %; nan without images."""
        return 100 * self.right / self.n if self.n else math.nan

    def interval(self) -> tuple[float, float]:
        """Return Wilson's 99% interval for the accuracy on all N images; a point if n is N."""
        if self.n in (0, self.N):
            return (0.0, 100.0) if not self.n else (self.accuracy, self.accuracy)
        n = self.n * (self.N - 1) / (self.N - self.n)  # drawn without replacement
        p, spread = self.right / self.n, Z * Z / n
        centre = (p + spread / 2) / (1 + spread)
        half = math.sqrt(p * (1 - p) * spread + spread * spread / 4) / (1 + spread)
        return 100 * max(0, centre - half), 100 * min(1, centre + half)

    def agrees(self, printed: float) -> bool:
        """Return True if a published accuracy (%) can be the accuracy on all N images."""
        low, high = self.interval()
        return low - TOLERANCE - 5e-3 <= printed <= high + TOLERANCE + 5e-3

    def __str__(self) -> str:
        if not self.n:
            return "-"
        low, high = self.interval()
        return f"{self.accuracy:.2f}" + (f" [{low:.1f}, {high:.1f}]" if self.n < self.N else "")


class Case(NamedTuple):
    """A data set to classify: features of its images, and its classes."""

    dataset: str  # name of its class, which selects the template
    names: list[str]
    z: "torch.Tensor"  # (n, D), normalised
    labels: "torch.Tensor"  # (n,)
    sizes: Counter  # number of test images by label


class Compared(NamedTuple):
    """A data set's accuracies, the published ones, and the reason if they differ."""

    name: str
    shares: dict[str, Share]
    printed: dict[str, float]
    reason: str = ""


def class_names(name: str, train: list, test: list) -> list[str]:
    """Return the names by label; raises UserError if there are too few, or no test images."""
    names = [name for _, name in sorted({d.label: d.classname for d in train or test}.items())]
    if len(names) < 2 or not test:
        raise UserError(
            f"{name} has {len(names)} classes and {len(test)} test images, but needs at "
            "least 2 classes and 1 test image: check its files below --root"
        )
    return names


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
    """Classifies test images by their class names with a CLIP, and compares the accuracies.

    It takes at most `limit` images of a data set; None takes all.

    Raises:
        UserError: the weights cannot be loaded.
    """

    def __init__(self, backbone: str = BACKBONE, limit: int | None = None):
        import torch

        from trainers.prompting import load_clip

        self.backbone, self.limit = backbone, limit
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.clip = load_clip(backbone).to(self.device)

    def compare(self, name: str, cls: Any, parts: Sequence[list], flaw: str) -> Compared:
        """Classify the test images of a data set and compare with the published accuracies.

        `parts` are train, val and test, lists of Datum; `flaw` is a problem of its counts, or
        empty.
        """
        train, _, test = parts
        names, chosen = class_names(name, train, test), self.some(test)
        case = self._case(cls.__name__, names, chosen, Counter(d.label for d in test))
        printed = printed_numbers(name)
        shares = self.shares(case)
        reason = ""
        if not fits(shares, printed):
            reason = self._reason(case, cls, chosen, printed, flaw)
        return Compared(name, shares, printed, reason)

    def some(self, items: list) -> list:
        """Return at most as many items as the limit, drawn."""
        if self.limit is None or self.limit >= len(items):
            return list(items)
        return random.Random(0).sample(items, self.limit)

    def _case(self, dataset: str, names: list[str], chosen: list, sizes: Counter) -> Case:
        import torch

        labels = torch.tensor([item.label for item in chosen])
        return Case(dataset, names, self.features(dataset, chosen), labels, sizes)

    def features(self, title: str, items: list, interpolation: str = "") -> "torch.Tensor":
        """Return features (n, D) of images, read and transformed as in a run without DRAFT."""
        import torch
        from dassl.config import get_cfg_default
        from dassl.utils import read_image

        from trainers.prompting.trainer.config import add_nodes, fit_images
        from trainers.prompting.trainer.views import plain_transform

        cfg = get_cfg_default()
        add_nodes(cfg)
        cfg.VERBOSE, cfg.INPUT.TRANSFORMS = False, ["normalize"]
        cfg, _ = fit_images(cfg, self.clip)
        if interpolation:
            cfg.defrost()
            cfg.INPUT.INTERPOLATION = interpolation
        transform = plain_transform(cfg)
        model = self._method(title, ["cat", "dog"])  # the image encoder ignores class names
        features = []
        bar = tqdm(total=len(items), desc=title, unit="image", leave=False, disable=None)
        with bar, ThreadPoolExecutor(THREADS) as pool, torch.inference_mode():
            for start in range(0, len(items), BATCH):
                some = items[start : start + BATCH]
                images = pool.map(lambda item: transform(read_image(item.impath)), some)
                batch = torch.stack(list(images)).to(self.device)
                features.append(model.image_encoder(batch).z[:, 0].float().cpu())
                bar.update(len(some))
        return torch.cat(features)

    def _method(self, dataset: str, names: list[str]) -> Any:
        from trainers.prompting import build_method

        return build_method(TRAINER, {}, self.clip, names, dataset).eval().to(self.device)

    def _weight(self, case: Case, names: list[str] | None = None) -> "torch.Tensor":
        """Return normalised text features (K, D) of the classes."""
        from trainers.prompting.use.export import text_classifier

        model = self._method(case.dataset, names or case.names)
        return text_classifier(model)["weight"].cpu()

    def shares(self, case: Case, names: list[str] | None = None, order: str = "") -> dict:
        """Return the Share of each split, with other `names` of the classes if they are given.

        Before they are halved, classes are sorted by name if `order` is `names`, by label if it is
        empty.
        """
        import torch

        K, weight = len(case.names), self._weight(case, names)
        classes = list(range(K))
        if order:
            classes.sort(key=lambda k: case.names[k].lower())
        half = (K + 1) // 2
        by_split = {}
        for split, members in zip(SPLITS, (classes[:half], classes[half:], classes), strict=True):
            columns = torch.tensor(members)
            rows = torch.isin(case.labels, columns)
            guess = columns[(case.z[rows] @ weight[columns].T).argmax(-1)]
            right = int((guess == case.labels[rows]).sum())
            by_split[split] = Share(right, int(rows.sum()), sum(case.sizes[k] for k in members))
        return by_split

    def _reason(self, case: Case, cls: Any, chosen: list, printed: dict, flaw: str) -> str:
        """Return the first cause that explains why accuracies differ from the published ones."""
        if foreign := self._foreign_weights():
            return foreign
        if flaw:
            return f"classes or split, which are of another source than CoOp's ({flaw})"
        return next(self._causes(case, cls, chosen, printed))

    def _foreign_weights(self) -> str:
        from trainers.prompting.backbones import weights_sha256

        if weights_sha256(self.backbone) == weights_sha256(BACKBONE):
            return ""
        return (
            f"the weights are those of another CLIP: '{self.backbone}' is not OpenAI's {BACKBONE}, "
            "to which the published numbers belong"
        )

    def _causes(self, case: Case, cls: Any, chosen: list, printed: dict) -> Iterator[str]:
        """Yield the causes that fit, the most likely first; the last one is always yielded."""
        if others := self._of_other_labels(case):
            yield others
        if fits(self.shares(case, order="names"), printed):
            yield (
                "the order of the classes: halved in the order of their names they give the "
                "published numbers, so the labels of the split are not CoOp's"
            )
        for names in spellings(case.names, getattr(cls, "class_names", {})):
            if fits(self.shares(case, names), printed):
                first = next(i for i, name in enumerate(names) if name != case.names[i])
                yield (
                    "the spelling of the names: the published numbers come out with "
                    f"'{names[first]}' in place of '{case.names[first]}', and so on"
                )
        z = self.features(case.dataset, chosen, "bilinear")
        if fits(self.shares(case._replace(z=z)), printed):
            yield "the interpolation: images that are resized bilinearly give the published numbers"
        yield (
            "neither the order and spelling of the names nor the interpolation explains it: the "
            "split probably comes from another source than CoOp's, or the images were changed "
            "(resized, compressed again); download both again with `python -m benchmark download`"
        )

    def _of_other_labels(self, case: Case) -> str:
        """Return a sentence if most classes are taken for another one, else an empty string."""
        import torch

        guess = (case.z @ self._weight(case).T).argmax(-1)
        taken = {
            k: Counter(guess[case.labels == k].tolist()).most_common(1)[0]
            for k in torch.unique(case.labels).tolist()
        }
        moved = {k: other for k, (other, _) in taken.items() if other != k}
        hits = sum(count for _, count in taken.values()) / len(guess)
        if len(set(moved.values())) <= len(taken) / 2 or hits < 0.5:
            return ""
        k, other = next(iter(moved.items()))
        return (
            f"the order of the names: {len(moved)} of {len(taken)} classes are mostly taken for "
            f"another, such as '{case.names[k]}' for '{case.names[other]}', so names belong to "
            "labels of other classes"
        )


def fits(shares: dict[str, Share], printed: dict[str, float]) -> bool:
    """Return True if the accuracies agree with the published ones in the splits that decide."""
    return all(shares[split].agrees(printed[split]) for split in deciding_splits(printed))


def spellings(names: list[str], table: dict[str, str]) -> Iterator[list[str]]:
    """Yield other spellings of class names: by the folders of `table`, and as separate words."""
    words = [re.sub("(?<=[a-z])(?=[A-Z])", " ", name).replace("_", " ") for name in names]
    folders = {"".join(name.split()).lower(): theirs for name, theirs in table.items()}
    proper = [folders.get("".join(name.split()).lower(), name) for name in words]
    seen = [names]
    for variant in (proper, words, [name.lower() for name in words]):
        if variant not in seen:
            seen.append(variant)
            yield variant


def render(results: list[Compared], checker: Checker) -> str:
    """Return the table, and below it the data sets that do not agree."""
    head = ["Zero-shot CLIP (%)", "Images", *(w for s in SPLITS for w in (s.title(), "Published"))]
    rows = [
        [
            case.name,
            f"{case.shares['all'].n:,}",
            *(
                cell
                for split in SPLITS
                for cell in (str(case.shares[split]), f"{case.printed.get(split, math.nan):.2f}")
            ),
        ]
        for case in results
    ]
    rows = [["-" if cell == "nan" else cell for cell in row] for row in rows]
    table = tabulate(rows, head, colalign=["left", *["right"] * 7], disable_numparse=True)
    wrong = [case for case in results if case.reason]
    note = f"{checker.backbone} in float32 on {checker.device.type}."
    if any(case.shares["all"].n < case.shares["all"].N for case in results):
        note += " Of some test images; in brackets 99% intervals for all of them."
    note += (
        f" Base and new must agree within {TOLERANCE} (All, where only that is published); papers "
        "differ in All by some tenths."
    )
    last = f"{len(results) - len(wrong)} of {len(results)} agree with the published numbers"
    if wrong:
        last += "; most likely different is"
    return "\n".join([table, note, last, *(f"- {case.name}: {case.reason}" for case in wrong)])


def check_printed(names: Sequence[str]) -> None:
    """Raise UserError for the first data set without a published zero-shot accuracy."""
    for name in names:
        if not printed_numbers(name):
            raise UserError(
                f"benchmark/report/published_csv has no zero-shot accuracy for {name}: leave it "
                "out, or check it without --zero-shot"
            )
