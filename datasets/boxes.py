"""The public data sets with several labels an image, from annotated boxes: VOC2007 and COCO2014."""

import io
import json
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from dassl.data.datasets import DATASET_REGISTRY

from trainers.prompting.errors import need
from trainers.prompting.images.class_folders import read_lines

from .base import Counts
from .several import SeveralLabels, note_known
from .tags import ABSENT, PRESENT, UNKNOWN, Tagged, table, with_labels

SHARES = Path(__file__).resolve().parents[1] / "assets" / "voc2007_partial.zip"


@DATASET_REGISTRY.register()
class VOC2007(SeveralLabels):
    """Photographs of 20 kinds of objects.

    Training images are those of trainval; with DATASET.VALIDATION_SHOTS, those of train, and those
    of val are for validation. Of a class with only difficult objects in an image, it is unknown.
    Known shares of 0.1, 0.2 to 0.9 are the published ones of DualCoOp and TaI-DPT.
    """

    dataset_dir = "VOCdevkit/VOC2007"
    image_dir = "JPEGImages"
    layout = "JPEGImages/, Annotations/ and ImageSets/Main/"
    expected = Counts(20, 5_011, 0, 4_952)
    difficult = True  # unknown labels of test images are of difficult objects
    names = (
        "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
        "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
        "train", "tvmonitor",
    )  # fmt: skip
    class_names = {
        "diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor",
    }  # fmt: skip

    @classmethod
    def read_as(cls, node, folder):
        """Return what `read` does, or train and val if validation images are asked for."""
        train, val, test = cls.read(folder)
        if getattr(node, "VALIDATION_SHOTS", 0):
            held = {*read_lines(folder / "ImageSets" / "Main" / "val.txt")}
            val = [item for item in train if Path(item.impath).stem in held]
            train = [item for item in train if Path(item.impath).stem not in held]
        return train, val, test

    @classmethod
    def make_split(cls, folder):
        """Return the images of trainval, none, and those of test."""
        names = tuple(cls.class_names.get(name, name) for name in cls.names)

        def items(part):
            for image in read_lines(folder / "ImageSets" / "Main" / f"{part}.txt"):
                label = cls.read_objects(folder / "Annotations" / f"{image}.xml")
                yield Tagged(f"{folder / cls.image_dir / image}.jpg", label, names)

        return [*items("trainval")], [], [*items("test")]

    @classmethod
    def read_objects(cls, file):
        """Return the labels of an image from its annotations."""
        label = [ABSENT] * len(cls.names)
        for thing in ElementTree.fromstring(file.read_bytes()).iter("object"):
            k = cls.names.index(thing.findtext("name", ""))
            sure = not int(thing.findtext("difficult", "0"))
            label[k] = PRESENT if sure else label[k] or UNKNOWN
        return tuple(label)

    def choose(self, cfg, train, val, test):
        """Take the images of the run, and know the line of each image in the published shares."""
        stems = sorted(Path(item.impath).stem for item in (*train, *val))
        self.lines = {stem: i for i, stem in enumerate(stems)}
        super().choose(cfg, train, val, test)

    def hide(self, train, share, seed):
        """Return training images with a published share of their labels, or one drawn here."""
        part = round(10 * share)
        if abs(10 * share - part) > 1e-6:
            return super().hide(train, share, seed)
        lines, n = read_share(part), self.expected.train
        need(
            len(self.lines) == n,
            f"The published shares of VOC2007's labels are of all {n:,} training images, and here "
            f"are {len(self.lines):,}: complete them, or choose a share such as {share + 0.01:g}",
        )
        names = [self.class_names.get(name, name) for name in self.names]
        columns = [names.index(name) for name in train[0].names]
        known = lines[[self.lines[Path(item.impath).stem] for item in train]][:, columns]
        labels = np.where(known, table(train), UNKNOWN)
        note_known(type(self).__name__, labels, "those that DualCoOp and TaI-DPT have published")
        return with_labels(train, labels)


def read_share(tenths):
    """Return which labels (5011, 20) of VOC2007's trainval a published share knows."""
    with zipfile.ZipFile(SHARES) as archive:
        text = archive.read(f"train_proportion_0.{tenths}.txt").decode()
    return np.loadtxt(io.StringIO(text), delimiter=",", dtype=np.int8) != 0


@DATASET_REGISTRY.register()
class COCO2014(SeveralLabels):
    """Photographs of 80 kinds of objects: train2014 for training, val2014 for the test.

    An image without annotations has no class, and is kept. Base and new classes are 48 and 17, as
    in papers on unseen classes; 15 are neither.
    """

    dataset_dir = "COCO"
    layout = "train2014/, val2014/ and annotations/instances_{train,val}2014.json"
    expected = Counts(80, 82_783, 0, 40_504)
    unseen = (
        "airplane", "bus", "cake", "cat", "couch", "cow", "cup", "dog", "elephant", "keyboard",
        "knife", "scissors", "sink", "skateboard", "snowboard", "tie", "umbrella",
    )  # fmt: skip
    seen = (
        "apple", "backpack", "banana", "bear", "bed", "bench", "bicycle", "bird", "boat", "book",
        "bottle", "bowl", "broccoli", "car", "carrot", "chair", "clock", "donut", "fork",
        "frisbee", "giraffe", "handbag", "horse", "kite", "laptop", "microwave", "motorcycle",
        "mouse", "orange", "oven", "person", "pizza", "refrigerator", "remote", "sandwich",
        "sheep", "skis", "spoon", "suitcase", "surfboard", "toaster", "toilet", "toothbrush",
        "train", "truck", "tv", "vase", "zebra",
    )  # fmt: skip

    @classmethod
    def make_split(cls, folder):
        """Return the images of train2014, none, and those of val2014."""
        return [cls.read_part(folder, "train2014"), [], cls.read_part(folder, "val2014")]

    @classmethod
    def read_part(cls, folder, part):
        """Return the images of a part in the order of its annotations."""
        file = folder / "annotations" / f"instances_{part}.json"
        content = json.loads(file.read_bytes())
        classes = sorted((row["id"], row["name"]) for row in content["categories"])
        column = {number: k for k, (number, _) in enumerate(classes)}
        files = {row["id"]: row["file_name"] for row in content["images"]}
        labels = {image: [ABSENT] * len(classes) for image in files}
        for row in content["annotations"]:
            labels[row["image_id"]][column[row["category_id"]]] = PRESENT
        names = tuple(name for _, name in classes)
        return [
            Tagged(f"{folder / part / name}", tuple(labels[image]), names)
            for image, name in files.items()
        ]
