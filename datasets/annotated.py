"""The public data sets with annotation files: aircraft, flowers, pets, cars, scenes, actions."""

import json
import re
from pathlib import PurePosixPath

from dassl.data.datasets import DATASET_REGISTRY, Datum

from trainers.prompting.images.class_folders import read_lines

from .base import Counts, ImageDataset
from .files import read_mat, read_table
from .splits import PARTS, divide, hold_out


@DATASET_REGISTRY.register()
class FGVCAircraft(ImageDataset):
    """100 variants of aircraft.

    The three parts are the published ones: there is no split file.
    """

    dataset_dir = "fgvc_aircraft"
    layout = "images/, variants.txt and images_variant_{train,val,test}.txt"
    expected = Counts(100, 3_334, 3_333, 3_333)

    @classmethod
    def make_split(cls, folder):
        """Return the published training, validation and test images of the 100 variants."""
        labels = {variant: i for i, variant in enumerate(read_lines(folder / "variants.txt"))}

        def read_annotations(part):
            return [
                Datum(f"{folder / cls.image_dir}/{image}.jpg", labels[variant], 0, variant)
                for image, variant in read_table(folder / f"images_variant_{part}.txt", 2)
            ]

        return [read_annotations(part) for part in PARTS]


@DATASET_REGISTRY.register()
class OxfordFlowers(ImageDataset):
    """102 kinds of flowers.

    The published division, with ten training images for each class, is not used.
    """

    dataset_dir = "oxford_flowers"
    image_dir = "jpg"
    split_file = "split_zhou_OxfordFlowers.json"
    expected = Counts(102, 4_093, 1_633, 2_463)

    @classmethod
    def make_split(cls, folder):
        """Divide all images: labels are in a MATLAB file, class names in a JSON file."""
        labels = read_mat(folder / "imagelabels.mat", "labels").tolist()
        names = json.loads((folder / "cat_to_name.json").read_text(encoding="utf8"))
        images = folder / cls.image_dir
        return divide(
            [
                Datum(f"{images}/image_{i:05}.jpg", label - 1, 0, names[str(label)])
                for i, label in enumerate(labels, start=1)
            ]
        )


@DATASET_REGISTRY.register()
class OxfordPets(ImageDataset):
    """37 breeds of cats and dogs.

    The test images are the published ones; a fifth of the training images is for validation.
    """

    dataset_dir = "oxford_pets"
    split_file = "split_zhou_OxfordPets.json"
    expected = Counts(37, 2_944, 736, 3_669)

    @classmethod
    def make_split(cls, folder):
        """Return the published parts, with validation images held out of the training images."""
        train, val = hold_out(cls.read_annotations(folder, "trainval.txt"))
        return train, val, cls.read_annotations(folder, "test.txt")

    @classmethod
    def read_annotations(cls, folder, file):
        """Read images from lines `Abyssinian_100 1 1 1`: breed and number, label from 1, more."""
        items = []
        for image, label, _ in read_table(folder / "annotations" / file, 3):
            breed = image.rpartition("_")[0].lower()
            path = folder / cls.image_dir / f"{image}.jpg"
            items.append(Datum(str(path), int(label) - 1, 0, breed))
        return items


@DATASET_REGISTRY.register()
class StanfordCars(ImageDataset):
    """196 models of cars.

    The test images are the published ones; a fifth of the training images is for validation.
    """

    dataset_dir = "stanford_cars"
    image_dir = ""  # paths start with cars_train/ or cars_test/
    split_file = "split_zhou_StanfordCars.json"
    layout = "cars_train/, cars_test/ and split_zhou_StanfordCars.json"
    expected = Counts(196, 6_509, 1_635, 8_041)

    @classmethod
    def make_split(cls, folder):
        """Return the published parts, with validation images held out of the training images."""
        devkit = folder / "devkit"
        names = [year_first(name) for name in read_mat(devkit / "cars_meta.mat", "class_names")]

        def read_annotations(images, file):
            items = []
            for row in read_mat(file, "annotations"):
                label = int(row["class"]) - 1
                items.append(Datum(f"{images}/{row['fname']}", label, 0, names[label]))
            return items

        train, val = hold_out(
            read_annotations(folder / "cars_train", devkit / "cars_train_annos.mat")
        )
        test = read_annotations(folder / "cars_test", folder / "cars_test_annos_withlabels.mat")
        return train, val, test


def year_first(name):
    """Return `Audi TTS Coupe 2012` as `2012 Audi TTS Coupe`."""
    model, _, year = name.rpartition(" ")
    return f"{year} {model}"


@DATASET_REGISTRY.register()
class SUN397(ImageDataset):
    """397 kinds of scenes.

    The first of the published divisions; a fifth of its training images is for validation.
    """

    dataset_dir = "sun397"
    image_dir = "SUN397"
    split_file = "split_zhou_SUN397.json"
    expected = Counts(397, 15_880, 3_970, 19_850)

    @classmethod
    def make_split(cls, folder):
        """Return the first published division, with validation images held out of the training."""
        labels = {scene: i for i, scene in enumerate(read_lines(folder / "ClassName.txt"))}

        def read_annotations(file):
            items = []
            for line in read_lines(folder / file):
                scene = str(PurePosixPath(line).parent)
                path = f"{folder / cls.image_dir}{line}"
                items.append(Datum(path, labels[scene], 0, scene_name(scene)))
            return items

        train, val = hold_out(read_annotations("Training_01.txt"))
        return train, val, read_annotations("Testing_01.txt")


def scene_name(scene):
    """Return the class name of a scene: `indoor church` for `/c/church/indoor`."""
    return " ".join(reversed(PurePosixPath(scene).parts[2:]))


@DATASET_REGISTRY.register()
class UCF101(ImageDataset):
    """101 human actions: the middle frames of videos.

    The first of the published divisions; a fifth of its training images is for validation.
    """

    dataset_dir = "ucf101"
    image_dir = "UCF-101-midframes"
    split_file = "split_zhou_UCF101.json"
    expected = Counts(101, 7_639, 1_898, 3_783)  # papers print 1,808; the public file has 1,898

    @classmethod
    def make_split(cls, folder):
        """Return the first published division, with validation images held out of the training."""
        lists = folder / "ucfTrainTestlist"
        classes = read_table(lists / "classInd.txt", 2)
        labels = {action: int(label) - 1 for label, action in classes}

        def read_annotations(file):
            items = []
            for line in read_lines(lists / file):  # a label may follow the path
                action, _, video = line.split()[0].partition("/")
                name = "_".join(re.findall("[A-Z][^A-Z]*", action))
                path = folder / cls.image_dir / name / video.replace(".avi", ".jpg")
                items.append(Datum(str(path), labels[action], 0, name))
            return items

        train, val = hold_out(read_annotations("trainlist01.txt"))
        return train, val, read_annotations("testlist01.txt")
