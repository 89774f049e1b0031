"""Builds small copies of the public data sets in their raw layouts, and loads them."""

import io
import json
import os
import random

import numpy as np
from own_images import read, registered
from PIL import Image
from scipy.io import savemat

JPEG = io.BytesIO()
Image.new("RGB", (8, 8), (200, 40, 40)).save(JPEG, "JPEG")

NAMES = {
    "imagenet": "ImageNet", "caltech101": "Caltech101", "oxford_pets": "OxfordPets",
    "stanford_cars": "StanfordCars", "oxford_flowers": "OxfordFlowers", "food101": "Food101",
    "fgvc_aircraft": "FGVCAircraft", "sun397": "SUN397", "ucf101": "UCF101",
    "dtd": "DescribableTextures", "eurosat": "EuroSAT", "imagenetv2": "ImageNetV2",
    "imagenet_sketch": "ImageNetSketch", "imagenet_a": "ImageNetA", "imagenet_r": "ImageNetR",
}  # fmt: skip


def load(name, root, *run, **keys):
    """Load the data set that configs/datasets/<name>.yaml names."""
    return read(registered(name), root, *run, **keys)


def jpegs(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(JPEG.getvalue())


def lines(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf8")


def labels(items):
    """Return file name -> label of each image."""
    return {os.path.basename(item.impath): item.label for item in items}


# ---- raw trees: each builder returns the class names in the order of labels, and three counts


def folders(images, *names, each=10):
    for name in names:
        jpegs(images / name, *(f"{name} {i}.jpg" for i in range(each)))


def caltech101(root):
    images = root / "caltech-101" / "101_ObjectCategories"
    folders(images, "BACKGROUND_Google", "Faces", "Faces_easy", "Leopards", "Motorbikes")
    folders(images, "accordion", "airplanes", "car_side")
    lines(images / "accordion" / "Thumbs.db", "no image")
    names = ["face", "leopard", "motorbike", "accordion", "airplane", "car_side"]
    return names, (30, 12, 18)


def dtd(root):
    folders(root / "dtd" / "images", "polka-dotted", "banded", each=120)
    return ["banded", "polka-dotted"], (120, 48, 72)


def eurosat(root):
    names = {
        "AnnualCrop": "Annual Crop Land",
        "Forest": "Forest",
        "HerbaceousVegetation": "Herbaceous Vegetation Land",
        "Highway": "Highway or Road",
        "Industrial": "Industrial Buildings",
        "Pasture": "Pasture Land",
        "PermanentCrop": "Permanent Crop Land",
        "Residential": "Residential Buildings",
        "River": "River",
        "SeaLake": "Sea or Lake",
    }
    folders(root / "eurosat" / "2750", *names)
    return list(names.values()), (50, 20, 30)


def food101(root):
    folders(root / "food-101" / "images", "baby_back_ribs", "apple_pie")
    return ["apple_pie", "baby_back_ribs"], (10, 4, 6)


def oxford_flowers(root):
    folder = root / "oxford_flowers"
    labels = np.array([[1 + i % 3 for i in range(30)]], dtype=np.uint8)
    jpegs(folder / "jpg", *(f"image_{i:05}.jpg" for i in range(1, 31)))
    savemat(folder / "imagelabels.mat", {"labels": labels})
    names = {"3": "canterbury bells", "1": "pink primrose", "2": "hard-leaved pocket orchid"}
    (folder / "cat_to_name.json").write_text(json.dumps(names))
    return [names["1"], names["2"], names["3"]], (15, 6, 9)


def oxford_pets(root):
    folder = root / "oxford_pets"
    trainval = [f"Abyssinian_{i} 1 1 1" for i in range(10)]
    trainval += [f"american_bulldog_{i} 2 2 1" for i in range(10)]
    test = ["american_bulldog_77 2 2 1", "Abyssinian_77 1 1 1"]
    lines(folder / "annotations" / "trainval.txt", *trainval)
    lines(folder / "annotations" / "test.txt", *test)
    jpegs(folder / "images", *(f"{row.split()[0]}.jpg" for row in trainval + test))
    return ["abyssinian", "american_bulldog"], (16, 4, 2)


def stanford_cars(root):
    folder = root / "stanford_cars"
    models = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ford GT Coupe 2006"]
    cells = np.array([models], dtype=object)
    (folder / "devkit").mkdir(parents=True)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": cells})

    def annotate(path, images, rows):
        fields = [("bbox_x1", object), ("class", object), ("fname", object)]
        records = np.array([[(9, label, name) for name, label in rows]], dtype=fields)
        savemat(path, {"annotations": records})
        jpegs(folder / images, *(name for name, _ in rows))

    train = [(f"{i + 1:05}.jpg", 1 + i % 3) for i in range(30)]
    annotate(folder / "devkit" / "cars_train_annos.mat", "cars_train", train)
    test = [(f"{i + 1:05}.jpg", 3 - i) for i in range(3)]
    annotate(folder / "cars_test_annos_withlabels.mat", "cars_test", test)
    names = ["2000 AM General Hummer SUV", "2012 Acura RL Sedan", "2006 Ford GT Coupe"]
    return names, (24, 6, 3)


def sun397(root):
    folder = root / "sun397"
    scenes = ["/a/abbey", "/c/church/indoor", "/c/church/outdoor"]
    train = [f"{scene}/sun_{i}.jpg" for scene in scenes for i in range(10)]
    test = [f"{scene}/sun_test.jpg" for scene in scenes]
    lines(folder / "ClassName.txt", *scenes)
    lines(folder / "Training_01.txt", *train)
    lines(folder / "Testing_01.txt", *test)
    jpegs(folder / "SUN397", *(path[1:] for path in train + test))
    return ["abbey", "indoor church", "outdoor church"], (24, 6, 3)


def ucf101(root):
    folder = root / "ucf101"
    actions = ["ApplyEyeMakeup", "TaiChi", "YoYo"]
    lists = folder / "ucfTrainTestlist"
    train = [f"{action}/v_{action}_g{i:02}_c01.avi" for action in actions for i in range(10)]
    test = [f"{action}/v_{action}_g77_c01.avi" for action in actions]
    lines(lists / "classInd.txt", *(f"{i} {a}" for i, a in enumerate(actions, start=1)))
    lines(lists / "trainlist01.txt", *(f"{path} {1 + i // 10}" for i, path in enumerate(train)))
    lines(lists / "testlist01.txt", *test)
    names = ["Apply_Eye_Makeup", "Tai_Chi", "Yo_Yo"]
    for path in train + test:
        action, video = path.split("/")
        name = names[actions.index(action)]
        jpegs(folder / "UCF-101-midframes" / name, video.replace(".avi", ".jpg"))
    return names, (24, 6, 3)


RAW = [caltech101, dtd, eurosat, food101, oxford_flowers, oxford_pets, stanford_cars, sun397]
RAW += [ucf101]


def fgvc_aircraft(root):
    folder = root / "fgvc_aircraft"
    variants = ["707-320", "A340-300", "DHC-8-100", "F/A-18"]
    lines(folder / "variants.txt", *variants)
    for part, each in {"train": 3, "val": 2, "test": 2}.items():
        images = [f"{part}{i}{v}" for v in range(4) for i in range(each)]
        rows = [f"{image} {variants[int(image[-1])]}" for image in reversed(images)]
        lines(folder / f"images_variant_{part}.txt", *rows)
        jpegs(folder / "images", *(f"{image}.jpg" for image in images))
    return variants, (12, 8, 8)


WNIDS = {f"n{i:08}": f"animal {i}" for i in range(12)}


def classnames(folder, names=WNIDS):
    rows = [f"{wnid} {name}" for wnid, name in names.items()]
    random.Random(0).shuffle(rows)
    lines(folder / "classnames.txt", *rows)


def imagenet(root):
    folder = root / "imagenet"
    classnames(folder)
    for wnid in WNIDS:
        jpegs(folder / "images" / "train" / wnid, *(f"{wnid}_{i}.JPEG" for i in range(6)))
        jpegs(folder / "images" / "val" / wnid, *(f"{wnid}_val_{i}.JPEG" for i in range(5)))
    return list(WNIDS.values()), (72, 60, 60)


def imagenetv2(root):
    classnames(root / "imagenet")  # the folder of ImageNet V2 may lack it
    folder = root / "imagenetv2" / "imagenetv2-matched-frequency-format-val"
    for label in range(12):
        jpegs(folder / str(label), f"{label}_0.jpeg", f"{label}_1.jpeg")
    return list(WNIDS.values()), (24, 0, 24)


def imagenet_sketch(root):
    classnames(root / "imagenet-sketch")
    for wnid in WNIDS:
        jpegs(root / "imagenet-sketch" / "images" / wnid, f"{wnid}_sketch.JPEG")
    return list(WNIDS.values()), (12, 0, 12)


def imagenet_a(root, folder="imagenet-adversarial", images="imagenet-a"):
    classnames(root / folder)
    for wnid in ("n00000007", "n00000002"):
        jpegs(root / folder / images / wnid, f"{wnid}_0.jpg", f"{wnid}_1.jpg")
    lines(root / folder / images / "README.txt", "This is not a class.")
    return ["animal 2", "animal 7"], (4, 0, 4)


def imagenet_r(root):
    return imagenet_a(root, "imagenet-rendition", "imagenet-r")


OFFICIAL = [fgvc_aircraft, imagenet, imagenetv2, imagenet_sketch, imagenet_a, imagenet_r]
SHIFTED = OFFICIAL[2:]
