"""Read published numbers, to be shown next to runs in the same setting.

The numbers of a protocol are in the files of `published_csv/` whose names begin with the protocol's
name. A line holds a method, a data set (or `average`, over the papers' data sets), the number (%)
in each column of the protocol, the kind, the source, and what is not usual: the shots if they are
not 16, the known share of labels, the CLIP. All numbers are for ViT-B/16 if no other is named, as
printed; where a printed average differs from that of the printed data sets, the source says so. An
average that is not printed follows from the data sets if all are; with a misprint among them it is
one. Numbers of several labels have none.

Base-to-new numbers are missing where no table could be read. Of 2SFS, AnchorOPT, CLIP-LoRA,
CLIP-SVD, DiscoVL, HiCroPL, HPT, HPT++, LLaMP, ProDA, ProLIP and TAP there is only the average, of
LwEIB and MMA++ only H; DeKg, GalLoP, LoCoOp, MMRL++, ProMetaR, ProVP, QNet and TAC are missing
entirely.

Numbers on BiomedCoOp's medical data sets are for BiomedCLIP, in files whose names begin with
`medical_`; there are only averages, of base-to-new without BUSI, for which it has no settings.

Of methods that adapt while testing, C-TPT's numbers and TPT's on other data sets are from tables of
others, BoostAdapter's second-hand, TPS has only those on top of CoOp, and TDA and DPE none with
this CLIP. Of MTA (66.6), zero-shot TransCLIP (70.3) and StatA (69.9) StatA's README prints averages
over eleven data sets, which no protocol has. The few-shot numbers of LinearProbe, LP++,
Tip-Adapter, CLIP-LoRA, GDA and CLIP-SVD are averages. Those of TransCLIP, NLPrompt and AWT without
training are missing, as are SkipTuning's (a drawing), HiCroPL's few-shot and transfer, and
ProLIP's, which has both with RN50 and ten seeds only.

Of several labels, mAP on VOC2007 counts difficult objects as absent. A later paper (Class Concept
Representation from Contextual Texts) prints 0.6 to 2.1 more for DualCoOp, and for TaI-DPT 88.9 and
68.0. Left out are numbers for other tests (17 unseen classes on 2,729 images, where prints
conflict; 16 classes of few-shot COCO), of SPARC (its sentences are not public) and RAM (none could
be read).
"""

import csv
import functools
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from trainers.prompting.marks import BEYOND

from ..protocols.base import Protocol
from ..protocols.configs import GROUPS
from .names import PAPERS, method_name

FOLDER = Path(__file__).parent / "published_csv"
BACKBONE = "ViT-B/16"
MEDICAL = "medical"
BIOMEDCLIP = "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
BACKBONES = {"": BACKBONE, MEDICAL: BIOMEDCLIP}
SHOTS = 16
AVERAGE = "average"
SOURCE = "imagenet"  # of the papers' transfers: not a target
TRAINERS = {theirs: ours for ours, theirs in PAPERS.items()}
KNOWN = "KNOWN"  # the share of labels that are known, a setting; it is part of a method's name
METRIC = {"voc2007": "map_difficult_absent"}  # that of published numbers, if not the main one
OF_FILES = {"TaIDPT"}  # their numbers are of public files, which MODEL.INIT_WEIGHTS names

# Numbers that contradict others in print, so that the right value is unknown: 95.69 for 16 shots
# with 81.99 for 8, or an H that does not follow from base and new.
MISPRINTS = {
    ("few_shot", "ALIGN", "ucf101", 16),
    ("base2new", "PromptKD", "ucf101", 16),
    ("base2new", "MultiModalAdapter", "ucf101", 16),
    ("base2new", "CoOp+Spotlighter", "sun397", 16),
    ("base2new", "CoOp+Spotlighter", "eurosat", 16),
}
MISPRINT = "A number marked as a misprint cannot be right: no difference is computed."

PLAIN = "plain"  # the kind of a row; otherwise marks of MARKS, joined by `+`
OTHER_RECIPE = "other recipe"
MARKS = [*BEYOND, OTHER_RECIPE]
OF_OTHER_RECIPE = (
    f"{OTHER_RECIPE}: published numbers of a training with steps that no config can say, which the "
    "config's first lines name."
)
NO_ALIGN = "ALIGN's own numbers in this protocol (main text of its paper) could not be obtained."


class Published(NamedTuple):
    """The published numbers of a method in one setting."""

    values: dict[str, float]  # accuracies (%) by column of the protocol; maybe only an H
    kinds: list[str]  # PLAIN or marks of MARKS
    source: str  # where the numbers are printed
    backbone: str
    misprint: bool  # True if they cannot be right (MISPRINTS)


class Key(NamedTuple):
    """The setting of published numbers: trainer, data set or `average`, and shots."""

    trainer: str  # or the name of `with_known`
    dataset: str
    shots: int


def group_of(datasets: Iterable[str]) -> str:
    """Return whose numbers those on some data sets are: MEDICAL if all are medical, else empty."""
    return MEDICAL if set(datasets) <= set(GROUPS[MEDICAL]) else ""


@functools.cache
def numbers(protocol: Protocol, group: str = "") -> dict[Key, Published]:
    """Return all published numbers of a protocol on a group of data sets, as of `group_of`."""
    printed: dict[Key, Published] = {}
    for path in sorted(FOLDER.glob(f"{group and group + '_'}{protocol.name}*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            printed |= (_read(line, protocol, BACKBONES[group]) for line in csv.DictReader(file))
    return printed | _averages(printed, protocol)


def _averages(printed: dict[Key, Published], protocol: Protocol) -> dict[Key, Published]:
    """Return the averages that are not printed, of methods that have all data sets."""
    if protocol.several:  # of other metrics
        return {}
    source = {SOURCE} if protocol.across == "dataset" else set()
    datasets = sorted({key.dataset for key in printed} - {AVERAGE} - source)
    averages = {}
    for trainer, shots in dict.fromkeys((key.trainer, key.shots) for key in printed):
        average = Key(trainer, AVERAGE, shots)
        keys = [average._replace(dataset=dataset) for dataset in datasets]
        if average in printed or "h" in protocol.columns or not printed.keys() >= set(keys):
            continue
        each = [printed[key] for key in keys]
        values = {
            column: round(fmean(theirs.values[column] for theirs in each), 2)
            for column in protocol.columns
        }
        misprint = any(theirs.misprint for theirs in each)
        averages[average] = each[0]._replace(values=values, misprint=misprint)
    return averages


def _read(line: dict, protocol: Protocol, backbone: str) -> tuple[Key, Published]:
    """Parse a line of a file."""
    of_halves = "h" in protocol.columns and not (line["base"] or line["new"])
    columns = ("h",) if of_halves else protocol.columns
    values, marks = {name: float(line[name]) for name in columns}, line["kind"].split("+")
    method, shots = line["method"], int(line.get("shots") or SHOTS)
    trainer = with_known(TRAINERS.get(method, method), line.get("known") or 1)
    key, backbone = Key(trainer, line["dataset"], shots), line.get("backbone") or backbone
    misprint = (protocol.name, *key) in MISPRINTS
    return key, Published(values, marks, line["source"], backbone, misprint)


def with_known(trainer: str, share: float | str) -> str:
    """Return the name of a method trained with a share of the labels, as in tables."""
    return trainer if float(share) == 1 else f"{trainer}, {KNOWN} {float(share):g}"


def backbones(protocol: Protocol, group: str = "") -> set[str]:
    """Return the CLIPs that have published numbers."""
    return {theirs.backbone for theirs in numbers(protocol, group).values()}


def datasets(protocol: Protocol, group: str = "") -> set[str]:
    """Return the data sets that published averages are over."""
    if group:
        return set(GROUPS[group]) - ({"busi"} if "h" in protocol.columns else set())
    return {key.dataset for key in numbers(protocol)} - {AVERAGE}


def trainers(protocol: Protocol, group: str = "") -> list[str]:
    """Return the methods with published numbers."""
    return list(dict.fromkeys(key.trainer for key in numbers(protocol, group)))


def find(
    protocol: Protocol, trainer: str, dataset: str, shots: int, group: str = ""
) -> Published | None:
    """Return the published numbers of a method in a setting; None if there are none."""
    # Shots are 0 for an untrained method: use those of the table, unless shots are its columns.
    shots = shots if protocol.across == "shots" else shots or SHOTS
    return numbers(protocol, group).get(Key(trainer, dataset, shots))


def kinds(protocol: Protocol, trainer: str, group: str = "") -> list[str]:
    """Return the marks of a method with published numbers; empty if it is plain."""
    found = numbers(protocol, group).items()
    return in_order(next(theirs.kinds for key, theirs in found if key.trainer == trainer))


def in_order(marks: Iterable[str]) -> list[str]:
    """Return the marks in the order of MARKS, without duplicates."""
    marks = set(marks)
    return [mark for mark in MARKS if mark in marks]


def with_marks(name: str, marks: Iterable[str]) -> str:
    """Return a name followed by marks, which are of MARKS."""
    text = ", ".join(marks)
    return f"{name} ({text})" if text else name


def meaning(marks: Iterable[str]) -> list[str]:
    """Return sentences that explain the marks in a table, if any."""
    of = in_order(marks)
    meanings = "; ".join(f"{mark}: {BEYOND[mark]}" for mark in of if mark in BEYOND)
    beyond = [f"Beyond labelled training images, {meanings}."] if meanings else []
    return [*beyond, *[OF_OTHER_RECIPE] * (OTHER_RECIPE in of)]


def caption(
    protocol: Protocol, shown: Iterable[str], marks: Iterable[str] = (), group: str = ""
) -> list[str]:
    """Return sentences on the sources of the published numbers of methods, and on all marks."""
    shown = set(shown)
    if not shown:
        return meaning(marks)
    cited: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for key, theirs in numbers(protocol, group).items():
        name = method_name(key.trainer).partition(f", {KNOWN}")[0]
        if key.trainer in shown and name not in (names := cited[theirs.backbone][theirs.source]):
            names.append(name)
    sentences = meaning(set(marks).union(*(kinds(protocol, trainer, group) for trainer in shown)))
    for backbone, methods in cited.items():
        citations = [f"{', '.join(names)}: {source}" for source, names in methods.items() if names]
        of = "BiomedCLIP" if group else backbone
        sentences += [f"Published ({of}): {'; '.join(citations)}."] if citations else []
    return sentences
