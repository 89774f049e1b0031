"""Files of the test server: archives in the real layout of each public data set, and others."""

import io
import json
import os
import tarfile
import zipfile

import datasets  # noqa: F401 (registers the data sets)

JPEG = b"\xff\xd8\xff\xe0 stands for an image"


def tar(tree, mode="w:gz"):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as file:
        for name, content in tree.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return data.getvalue()


def zipped(tree):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, content in tree.items():
            file.writestr(name, content)
    return data.getvalue()


def split(*images):
    """Return a split file in which every image is a separate class."""
    items = [[image, label, f"class {label}"] for label, image in enumerate(images)]
    return json.dumps({"train": items, "val": items[:1], "test": items}).encode()


def under(prefix, *names, content=JPEG):
    return {f"{prefix}/{name}": content for name in names}


CLASSNAMES = b"n01440764 tench\nn01443537 goldfish\n"
FOLDERS = ("n01440764/a.JPEG", "n01443537/b.JPEG")
AIRCRAFT = {
    f"fgvc-aircraft-2013b/data/images_variant_{part}.txt": b"0000001 707-320\n0000002 A300\n"
    for part in ("train", "val", "test")
}

# The files of each data set, laid out as the public ones.
PUBLIC = {
    "caltech101": {
        "caltech-101.zip": zipped({
            "caltech-101/101_ObjectCategories.tar.gz": tar(
                under("101_ObjectCategories", "Faces/1.jpg", "ant/1.jpg")
            ),
            "caltech-101/Annotations.tar": b"",
            "__MACOSX/caltech-101/._x": b"",
        }),
        "split_zhou_Caltech101.json": split("Faces/1.jpg", "ant/1.jpg"),
    },
    "oxford_pets": {
        "images.tar.gz": tar(under("images", "Bombay_1.jpg", "pug_1.jpg")),
        "annotations.tar.gz": tar(under("./annotations", "trainval.txt", "test.txt")),
        "split_zhou_OxfordPets.json": split("Bombay_1.jpg", "pug_1.jpg"),
    },
    "stanford_cars": {
        "stanford_cars.zip": zipped({
            "stanford_cars/cars_train/1.jpg": JPEG,
            "stanford_cars/cars_test/1.jpg": JPEG,
            "stanford_cars/split_fewshot/shot_1-seed_1.pkl": b"not to be kept",
        }),
        "split_zhou_StanfordCars.json": split("cars_train/1.jpg", "cars_test/1.jpg"),
    },
    "oxford_flowers": {
        "102flowers.tgz": tar(under("jpg", "image_00001.jpg", "image_00002.jpg")),
        "imagelabels.mat": b"labels",
        "cat_to_name.json": b"{}",
        "split_zhou_OxfordFlowers.json": split("image_00001.jpg", "image_00002.jpg"),
    },
    "food101": {
        "food-101.tar.gz": tar(under("food-101/images", "pho/1.jpg", "waffles/1.jpg")),
        "split_zhou_Food101.json": split("pho/1.jpg", "waffles/1.jpg"),
    },
    "fgvc_aircraft": {
        "fgvc-aircraft-2013b.tar.gz": tar(
            under("fgvc-aircraft-2013b/data/images", "0000001.jpg", "0000002.jpg")
            | {"fgvc-aircraft-2013b/data/variants.txt": b"707-320\nA300\n"}
            | {"fgvc-aircraft-2013b/evaluation.m": b""}
            | AIRCRAFT
        ),
    },
    "sun397": {
        "sun397.zip": zipped(under("sun397/SUN397", "a/abbey/1.jpg", "a/alley/1.jpg")),
        "split_zhou_SUN397.json": split("a/abbey/1.jpg", "a/alley/1.jpg"),
    },
    "ucf101": {
        "UCF-101-midframes.zip": zipped(under("UCF-101-midframes", "Archery/1.jpg", "Yo/1.jpg")),
        "split_zhou_UCF101.json": split("Archery/1.jpg", "Yo/1.jpg"),
    },
    "dtd": {
        "dtd-r1.0.1.tar.gz": tar(under("dtd/images", "banded/1.jpg", "woven/1.jpg")),
        "split_zhou_DescribableTextures.json": split("banded/1.jpg", "woven/1.jpg"),
    },
    "eurosat": {
        "EuroSAT.zip": zipped(under("2750", "Forest/1.jpg", "River/1.jpg")),
        "split_zhou_EuroSAT.json": split("Forest/1.jpg", "River/1.jpg"),
    },
    "imagenetv2": {
        # The public file is called .tar.gz and is a plain .tar.
        "imagenetv2-matched-frequency.tar.gz": tar(
            under("imagenetv2-matched-frequency-format-val", "0/a.jpeg", "1/b.jpeg"), "w"
        ),
        "classnames.txt": CLASSNAMES,
    },
    "imagenet_sketch": {
        "ImageNet-Sketch.zip": zipped(under("sketch", *FOLDERS)),
        "classnames.txt": CLASSNAMES,
    },
    "imagenet_a": {
        "imagenet-a.tar": tar(under("imagenet-a", *FOLDERS), "w"),
        "classnames.txt": CLASSNAMES,
    },
    "imagenet_r": {
        "imagenet-r.tar": tar(under("imagenet-r", *FOLDERS), "w"),
        "classnames.txt": CLASSNAMES,
    },
}  # fmt: skip


TREE = {"top/images/1.jpg": os.urandom(3_000_000)}


def arrived(folder):
    return (folder / "images/1.jpg").read_bytes() == TREE["top/images/1.jpg"]


def link(name, target):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


def tar_of(*members):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as file:
        for member in members:
            content = b"evil" if member.isreg() else b""
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
        file.addfile(tarfile.TarInfo("images/1.jpg"), io.BytesIO())
    return data.getvalue()
