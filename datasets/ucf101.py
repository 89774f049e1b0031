"""UCF101: 101 actions of people, the middle frames of videos."""

import re

from dassl.data.datasets import DATASET_REGISTRY, Datum

from .base import Counts, ImageDataset
from .files import hold_out, read_lines, read_table


@DATASET_REGISTRY.register()
class UCF101(ImageDataset):
    """The first of the set's own divisions, and a fifth of its training images for validation."""

    dataset_dir = "ucf101"
    image_dir = "UCF-101-midframes"
    split_file = "split_zhou_UCF101.json"
    expected = Counts(101, 7_639, 1_898, 3_783)  # papers print 1,808; the public file has 1,898

    @classmethod
    def make_split(cls, folder):
        """The first published partition; validation images are held out of the training images."""
        lists = folder / "ucfTrainTestlist"
        classes = read_table(lists / "classInd.txt", 2)
        labels = {action: int(label) - 1 for label, action in classes}

        def annotated(file):
            items = []
            for line in read_lines(lists / file):  # a label may follow the path
                action, _, video = line.split()[0].partition("/")
                name = "_".join(re.findall("[A-Z][^A-Z]*", action))
                path = folder / cls.image_dir / name / video.replace(".avi", ".jpg")
                items.append(Datum(str(path), labels[action], 0, name))
            return items

        train, val = hold_out(annotated("trainlist01.txt"))
        return train, val, annotated("testlist01.txt")
