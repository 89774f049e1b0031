"""Zero-shot CLIP on public data compared with published accuracies: a proof before any training.

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
TOLERANCE = 0.1  # of an accuracy in %: half precision, and the last printed digit
Z = 2.576  # of a 99% interval: some twenty numbers are compared
BATCH, THREADS = 100, 8


class Share(NamedTuple):
    """Of n images, drawn from N, those that are classified rightly; as an accuracy in %."""

    right: int
    n: int
    N: int

    @property
    def accuracy(self) -> float:
        """In %; nan without images."""
        return 100 * self.right / self.n if self.n else math.nan

    def interval(self) -> tuple[float, float]:
        """Wilson's 99% interval for the accuracy on all N images; a point where n is N."""
        if self.n in (0, self.N):
            return (0.0, 100.0) if not self.n else (self.accuracy, self.accuracy)
        n = self.n * (self.N - 1) / (self.N - self.n)  # drawn without replacement
        p, spread = self.right / self.n, Z * Z / n
        centre = (p + spread / 2) / (1 + spread)
        half = math.sqrt(p * (1 - p) * spread + spread * spread / 4) / (1 + spread)
        return 100 * max(0, centre - half), 100 * min(1, centre + half)

    def agrees(self, printed: float) -> bool:
        """True if a published accuracy can be that on all N images."""
        low, high = self.interval()
        return low - TOLERANCE - 5e-3 <= printed <= high + TOLERANCE + 5e-3

    def __str__(self) -> str:
        if not self.n:
            return "-"
        low, high = self.interval()
        return f"{self.accuracy:.2f}" + (f" [{low:.1f}, {high:.1f}]" if self.n < self.N else "")


class Case(NamedTuple):
    """Computed parts of a data set: features of its images, and its classes."""

    dataset: str  # its class, which selects the sentence
    names: list[str]
    z: "torch.Tensor"  # (n, D), normalised
    labels: "torch.Tensor"  # (n,)
    sizes: Counter  # label to the number of its test images


class Compared(NamedTuple):
    """A data set's accuracies, those that are printed, and why they differ, if they do."""

    name: str
    shares: dict[str, Share]
    printed: dict[str, float]
    reason: str = ""


def printed_numbers(name: str) -> dict[str, float]:
    """The published accuracies (%) of zero-shot CLIP on a data set, by split."""
    found: dict[str, float] = {}
    for protocol, splits in (
        ("cross_dataset", {"accuracy": "all"}),
        ("domain_generalization", {"accuracy": "all"}),
        ("base2new", {"base": "base", "new": "new"}),
    ):
        numbers = published.find(PROTOCOLS[protocol], TRAINER, name, published.SHOTS)
        if numbers and not numbers.misprint:
            found |= {split: numbers.values[column] for column, split in splits.items()}
    return found


def judged(printed: dict[str, float]) -> list[str]:
    """The splits that decide: base and new, on which papers agree, or all where only that is."""
    return [split for split in ("base", "new") if split in printed] or list(printed)


class Checker:
    """A CLIP that classifies test images by the names of their classes.

    Args:
        backbone: its name or file.
        limit: most images of a data set; None takes all.

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
        """Classify the test images of a data set.

        Args:
            name: that of its config file.
            cls: its class.
            parts: train, val and test, lists of Datum.
            flaw: what is wrong with its counts; empty if nothing.
        """
        train, _, test = parts
        names = [name for _, name in sorted({d.label: d.classname for d in train or test}.items())]
        if len(names) < 2 or not test:
            raise UserError(f"{name} has {len(names)} classes and {len(test)} test images: too few")
        chosen = list(test)
        if self.limit is not None and self.limit < len(test):
            chosen = random.Random(0).sample(chosen, self.limit)
        case = self._case(cls.__name__, names, chosen, Counter(d.label for d in test))
        printed = printed_numbers(name)
        shares = self.shares(case)
        reason = ""
        if not fits(shares, printed):
            reason = self._reason(case, cls, chosen, printed, flaw)
        return Compared(name, shares, printed, reason)

    def _case(self, dataset: str, names: list[str], chosen: list, sizes: Counter) -> Case:
        import torch

        labels = torch.tensor([item.label for item in chosen])
        return Case(dataset, names, self._features(dataset, chosen), labels, sizes)

    def _features(self, title: str, items: list, interpolation: str = "") -> "torch.Tensor":
        """Features (n, D) of images, which are read as a run's evaluation reads them."""
        import torch
        from dassl.config import get_cfg_default
        from dassl.data.transforms import build_transform
        from dassl.utils import read_image

        from trainers.prompting.trainer.config import add_nodes, fitted

        cfg = get_cfg_default()
        add_nodes(cfg)
        cfg.VERBOSE, cfg.INPUT.TRANSFORMS = False, ["normalize"]
        cfg, _ = fitted(cfg, self.clip)
        if interpolation:
            cfg.defrost()
            cfg.INPUT.INTERPOLATION = interpolation
        transform = build_transform(cfg, is_train=False)
        model = self._method(title, ["cat", "dog"]).model  # whose image encoder is that of any
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
        """Text features (K, D) of classes, normalised."""
        from trainers.prompting.use.export import text_classifier

        model = self._method(case.dataset, names or case.names).model
        return text_classifier(model)["weight"].cpu()

    def shares(self, case: Case, names: list[str] | None = None, order: str = "") -> dict:
        """The Share of each split.

        Args:
            case: the data set.
            names: other names of its classes.
            order: `names` puts the classes in the order of their names before they are halved.
        """
        import torch

        K, weight = len(case.names), self._weight(case, names)
        classes = list(range(K))
        if order:
            classes.sort(key=lambda k: case.names[k].lower())
        half = (K + 1) // 2
        found = {}
        for split, members in zip(SPLITS, (classes[:half], classes[half:], classes), strict=True):
            columns = torch.tensor(members)
            rows = torch.isin(case.labels, columns)
            guess = columns[(case.z[rows] @ weight[columns].T).argmax(-1)]
            right = int((guess == case.labels[rows]).sum())
            found[split] = Share(right, int(rows.sum()), sum(case.sizes[k] for k in members))
        return found

    def _reason(self, case: Case, cls: Any, chosen: list, printed: dict, flaw: str) -> str:
        """Why the accuracies are not those that are printed: the first cause that explains it."""
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
            "of which the published numbers are"
        )

    def _causes(self, case: Case, cls: Any, chosen: list, printed: dict) -> Iterator[str]:
        """Causes, the likeliest first; the last one stands where no other does."""
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
        z = self._features(case.dataset, chosen, "bilinear")
        if fits(self.shares(case._replace(z=z)), printed):
            yield "the interpolation: images that are resized bilinearly give the published numbers"
        yield (
            "neither the order and spelling of the names nor the interpolation explains it: the "
            "split is probably of another source than CoOp's, or the images were changed (resized, "
            "compressed again); fetch both again, `benchmark download` has the addresses"
        )

    def _of_other_labels(self, case: Case) -> str:
        """A sentence where most classes are taken for one other: names stand at other labels."""
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
            f"another, such as '{case.names[k]}' for '{case.names[other]}', so names stand at "
            "labels of other classes"
        )


def fits(shares: dict[str, Share], printed: dict[str, float]) -> bool:
    """True if the accuracies are those that are printed, in the splits that decide."""
    return all(shares[split].agrees(printed[split]) for split in judged(printed))


def spellings(names: list[str], table: dict[str, str]) -> Iterator[list[str]]:
    """Other spellings of class names: of a data set's own table, and as words.

    Args:
        names: as they are.
        table: the names of folders to those of their classes.
    """
    words = [re.sub("(?<=[a-z])(?=[A-Z])", " ", name).replace("_", " ") for name in names]
    folders = {"".join(name.split()).lower(): theirs for name, theirs in table.items()}
    proper = [folders.get("".join(name.split()).lower(), name) for name in words]
    seen = [names]
    for variant in (proper, words, [name.lower() for name in words]):
        if variant not in seen:
            seen.append(variant)
            yield variant


def render(found: list[Compared], checker: Checker) -> str:
    """The table, and below it what does not agree."""
    head = ["Zero-shot CLIP (%)", "Images", *(w for s in SPLITS for w in (s.title(), "Published"))]
    rows = [
        [
            one.name,
            f"{one.shares['all'].n:,}",
            *(
                cell
                for split in SPLITS
                for cell in (str(one.shares[split]), f"{one.printed.get(split, math.nan):.2f}")
            ),
        ]
        for one in found
    ]
    rows = [["-" if cell == "nan" else cell for cell in row] for row in rows]
    table = tabulate(rows, head, colalign=["left", *["right"] * 7], disable_numparse=True)
    wrong = [one for one in found if one.reason]
    note = f"{checker.backbone} in float32 on {checker.device.type}."
    if any(one.shares["all"].n < one.shares["all"].N for one in found):
        note += " Some test images only: in brackets 99% intervals for all of them."
    note += (
        f" Base and new (elsewhere all) are to agree within {TOLERANCE}; papers differ in All by "
        "some tenths."
    )
    last = f"{len(found) - len(wrong)} of {len(found)} agree with the published numbers"
    if wrong:
        last += "; most likely differs"
    return "\n".join([table, note, last, *(f"- {one.name}: {one.reason}" for one in wrong)])


def check_printed(names: Sequence[str]) -> None:
    """Refuse data sets on which no zero-shot accuracy is published.

    Raises:
        UserError: names the first.
    """
    for name in names:
        if not printed_numbers(name):
            raise UserError(
                f"no zero-shot accuracy on {name} is in benchmark/report/published_csv: leave it "
                "out, or check it without --zero-shot"
            )
