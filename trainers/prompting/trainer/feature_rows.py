"""Runs on a file of features (`DATASET.FEATURES`): rows in place of images, sentences looked up.

The CLIP of such a run has two closed sides. What a method reads besides rows and the sentences of
the file is refused.
"""

from collections import defaultdict
from functools import partial
from typing import Any

import torch
from dassl.data import DataManager
from torch import nn
from torch.utils.data import Dataset
from yacs.config import CfgNode

from ..backbones.look_up import LookUp, clip_with
from ..capabilities.at_test_time import count_views
from ..encoders.class_text import zero_shot_template
from ..encoders.sentences import around_name
from ..errors import need
from ..method import Method
from ..node import clean
from ..running.seeding import seeded
from ..storage.features import Features, read_features

OF_DATA = (  # attributes of a trainer that Dassl takes from the data
    "train_loader_x", "train_loader_u", "val_loader", "test_loader", "num_classes",
    "num_source_domains", "lab2cname",
)  # fmt: skip


def read_rows(cfg: CfgNode, file: str) -> tuple[CfgNode, Any, DataManager]:
    """Return the cfg of a run on a file of features, its CLIP, and loaders of its rows."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATALOADER.NUM_WORKERS = 0  # rows are in memory
    cfg.freeze()
    features = read_features(file)
    template = zero_shot_template(cfg.DATASET.NAME)
    print(f"Features of {features.clip} from '{file}'")
    if template != features.template:
        print(f"Its template '{features.template}' stands for '{template}'")
    same = nn.Identity()  # no transform of images is built, which would import torchvision
    data = DataManager(cfg, same, same, dataset_wrapper=partial(FeatureRows, features))
    return cfg, clip_of(features, template), data


def check_views(method: Method, file: str) -> None:
    """Raise a UserError if a method takes several views of a test image."""
    count = count_views(method)
    need(
        count == 1,
        f"{type(method).__name__} reads {count} random views of each test image, which "
        f"'{file}' does not have: run it on images",
    )


class FeatureRows(Dataset):
    """Rows of a file of features as items of a data set, with Dassl's arguments of a wrapper.

    A training row of which the file has views is one of them, drawn as an augmentation is.
    """

    def __init__(
        self,
        features: Features,
        cfg: CfgNode,
        data_source: list[Any],
        transform: object = None,
        is_train: bool = False,
    ):
        self.features, self.data_source = features, data_source
        self.several = features.several
        self.k_tfm = cfg.DATALOADER.K_TRANSFORMS if is_train else 1
        rows = features.views_of if is_train else None
        self.views = {row: i for i, row in enumerate([] if rows is None else rows.tolist())}

    def __len__(self) -> int:
        return len(self.data_source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return an item; the seed of an index, where it has one, decides the view."""
        item = self.data_source[index]
        row = self.features.places[item.impath]
        if row not in self.views:
            views = [self.features.image[row].float()] * self.k_tfm
        elif (seed := getattr(index, "seed", None)) is not None:
            with seeded(seed):
                views = self._draw(row)
        else:
            views = self._draw(row)
        return {
            "img": views if self.k_tfm > 1 else views[0],
            "label": torch.tensor(item.label, dtype=torch.int8) if self.several else item.label,
            "domain": item.domain,
            "impath": item.impath,
            "index": int(index),
        }

    def _draw(self, row: int) -> list[torch.Tensor]:
        views = self.features.views
        assert views is not None, "it has views of this row"
        places = torch.randint(len(views), (self.k_tfm,)).tolist()
        return [views[i, self.views[row]].float() for i in places]


# ---------------------------------------------------------------------- the CLIP


def clip_of(features: Features, template: str) -> Any:
    """Return a CLIP whose sides are closed: rows as they are, and the sentences of the file.

    Args:
        features: of the file.
        template: the data set's own template, for which that of the file stands.
    """
    sentences: dict[str, torch.Tensor] = {}
    sources = {text: text for text in features.text if "{}" in text}
    for asked, source in (sources | {template: features.template}).items():
        before, after = around_name(asked)
        rows = features.sentences(source)
        for name, row in zip(features.classnames, rows, strict=True):
            sentences[f"{before}{clean(name)}{after}"] = row
    sets: dict[str, dict[str, list[str]]] = {}
    for name, (rows, classes) in features.sets.items():
        own = sets[name] = defaultdict(list)
        for i, (row, k) in enumerate(zip(features.as_read(rows), classes.tolist(), strict=True)):
            key = clean(f"{name} {i}")
            own[features.classnames[k]].append(key)
            sentences[key] = row
    look_up = LookUp(features.path, [*features.text, *sets], sentences)
    clip_model = clip_with(look_up, features.image.shape[1], features.logit_scale)
    clip_model.sentence_sets = sets
    return clip_model
