"""The 15 public data sets, from small trees in their true layouts.

It is long because there is one tree for each data set.
"""

import io
import json
import os
import random
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import read_image
from paths import GOLDEN, ROOT
from PIL import Image
from scipy.io import savemat

import datasets  # noqa: F401 (registers them)
from datasets.files import PARTS
from trainers.prompting.errors import UserError

PROTOCOL = json.loads((GOLDEN / "protocol.json").read_text())
JPEG = io.BytesIO()
Image.new("RGB", (8, 8), (200, 40, 40)).save(JPEG, "JPEG")

NAMES = {
    "imagenet": "ImageNet", "caltech101": "Caltech101", "oxford_pets": "OxfordPets",
    "stanford_cars": "StanfordCars", "oxford_flowers": "OxfordFlowers", "food101": "Food101",
    "fgvc_aircraft": "FGVCAircraft", "sun397": "SUN397", "ucf101": "UCF101",
    "dtd": "DescribableTextures", "eurosat": "EuroSAT", "imagenetv2": "ImageNetV2",
    "imagenet_sketch": "ImageNetSketch", "imagenet_a": "ImageNetA", "imagenet_r": "ImageNetR",
}  # fmt: skip


def load(name, root, shots=-1, subset="all", seed=1):
    """The data set that configs/datasets/<name>.yaml names."""
    file = ROOT / "configs" / "datasets" / f"{name}.yaml"
    cls = DATASET_REGISTRY.get(yaml.safe_load(file.read_text())["DATASET"]["NAME"])
    node = SimpleNamespace(ROOT=str(root), NUM_SHOTS=shots, SUBSAMPLE_CLASSES=subset)
    return cls(SimpleNamespace(DATASET=node, SEED=seed))


def jpegs(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(JPEG.getvalue())


def lines(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf8")


def counts(dataset):
    return tuple(map(len, (dataset.train_x, dataset.val, dataset.test)))


def labels(items):
    """Each image's path below the folder of its class, and its label."""
    return {os.path.basename(item.impath): item.label for item in items}


# ---- raw trees: each builder gives the class names in the order of labels, and three counts


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
    for part, each in zip(PARTS, (3, 2, 2), strict=True):
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
    classnames(root / "imagenet")  # the set's own folder may lack it
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
    lines(root / folder / images / "README.txt", "This is no class.")
    return ["animal 2", "animal 7"], (4, 0, 4)


def imagenet_r(root):
    return imagenet_a(root, "imagenet-rendition", "imagenet-r")


OFFICIAL = [fgvc_aircraft, imagenet, imagenetv2, imagenet_sketch, imagenet_a, imagenet_r]
SHIFTED = OFFICIAL[2:]


@pytest.fixture(params=RAW + OFFICIAL, ids=lambda builder: builder.__name__)
def tree(request, tmp_path):
    """A data set's name, root, class names and counts."""
    return SimpleNamespace(
        name=request.param.__name__, root=tmp_path, facts=request.param(tmp_path)
    )


def test_every_set_is_tested_and_has_its_config():
    assert {builder.__name__ for builder in RAW + OFFICIAL} == set(NAMES)
    for name, registered in NAMES.items():
        config = yaml.safe_load((ROOT / "configs" / "datasets" / f"{name}.yaml").read_text())
        assert config == {"DATASET": {"NAME": registered}}


def test_names_labels_and_counts_from_the_raw_files(tree):
    names, sizes = tree.facts
    dataset = load(tree.name, tree.root)
    assert dataset.classnames == names
    assert counts(dataset) == sizes
    for items in (dataset.train_x, dataset.val, dataset.test):
        assert {item.classname for item in items} <= set(names)
        assert all(item.classname == names[item.label] for item in items)
    assert {item.label for item in dataset.test} == set(range(len(names)))
    assert read_image(dataset.test[-1].impath).size == (8, 8)
    if tree.name not in [builder.__name__ for builder in [imagenet, *SHIFTED]]:
        paths = [x.impath for part in (dataset.train_x, dataset.val, dataset.test) for x in part]
        assert len(set(paths)) == len(paths)


def test_annotations_are_joined_with_the_right_images(tmp_path):
    for builder in (stanford_cars, oxford_flowers, fgvc_aircraft):
        builder(tmp_path)
    assert labels(load("stanford_cars", tmp_path).test) == {
        "00001.jpg": 2, "00002.jpg": 1, "00003.jpg": 0
    }  # fmt: skip
    flowers = labels(load("oxford_flowers", tmp_path).test)
    assert all(label == (int(name[6:11]) - 1) % 3 for name, label in flowers.items())
    planes = labels(load("fgvc_aircraft", tmp_path).val)
    assert all(label == int(name[-5]) for name, label in planes.items())


def test_base_and_new_are_halves(tree):
    names, _ = tree.facts
    half = (len(names) + 1) // 2
    if half < 2 or len(names) - half < 2:
        with pytest.raises(UserError, match="classification needs two"):
            load(tree.name, tree.root, subset="new")
        return
    for subset, expected in (("base", names[:half]), ("new", names[half:])):
        dataset = load(tree.name, tree.root, subset=subset)
        assert dataset.classnames == expected
        assert {item.label for item in dataset.test} == set(range(len(expected)))


@pytest.mark.parametrize("builder", RAW)
def test_a_split_of_ones_own_is_kept_and_admitted(builder, tmp_path, capsys):
    builder(tmp_path)
    random.seed(5)
    state = random.getstate()
    first = load(builder.__name__, tmp_path)
    assert random.getstate() == state
    (file,) = tmp_path.glob("*/split_zhou_*.json")
    assert file.name == f"split_zhou_{NAMES[builder.__name__]}.json"
    said = capsys.readouterr().out
    assert f"'{file}' was missing" in said and "are not comparable with published ones" in said
    split = json.loads(file.read_text())
    assert not any(row[0].startswith("/") for part in PARTS for row in split[part])
    moved = tmp_path / "moved"
    moved.mkdir()
    file.parent.rename(moved / file.parent.name)
    again = load(builder.__name__, moved)
    assert labels(again.train_x) == labels(first.train_x)
    assert labels(again.val) == labels(first.val)
    assert "made here by chance" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_to_stops_nothing(tmp_path, monkeypatch, capsys):
    dtd(tmp_path)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    first = load("dtd", tmp_path)
    (tmp_path / "dtd" / "split_zhou_DescribableTextures.json").unlink()
    monkeypatch.setattr("pathlib.Path.write_bytes", refuse)
    capsys.readouterr()
    assert labels(load("dtd", tmp_path).train_x) == labels(first.train_x)
    assert "cannot be written (Permission denied)" in capsys.readouterr().out
    assert os.listdir(tmp_path / "dtd") == ["images"]


@pytest.mark.parametrize("builder", RAW)
def test_the_published_split_comes_before_the_raw_files(builder, tmp_path, capsys):
    builder(tmp_path)
    own = load(builder.__name__, tmp_path)
    (file,) = tmp_path.glob("*/split_zhou_*.json")
    split = json.loads(file.read_text())
    published = {"train": split["test"], "val": [], "test": split["train"][:3]}
    file.write_text(json.dumps(published))
    capsys.readouterr()
    dataset = load(builder.__name__, tmp_path)
    assert labels(dataset.train_x) == labels(own.test)
    assert counts(dataset)[1:] == (0, 3)
    assert "by chance" not in capsys.readouterr().out


@pytest.mark.parametrize("run", ["seed1-shots4", "seed2-shots16", "seed3-shots1"])
def test_few_shot_picks_are_the_published_ones(run, tmp_path):
    images = tmp_path / "eurosat" / "2750"
    jpegs(images, *(row[0] for part in PARTS for row in PROTOCOL["split"][part]))
    (tmp_path / "eurosat" / "split_zhou_EuroSAT.json").write_text(json.dumps(PROTOCOL["split"]))
    seed, shots = (int(part.lstrip("sedhot")) for part in run.split("-"))
    dataset = load("eurosat", tmp_path, shots, seed=seed)
    for part, items in (("train", dataset.train_x), ("val", dataset.val)):
        picks = [os.path.relpath(item.impath, images) for item in items]
        assert picks == PROTOCOL["picks"][run][part]


# ---- ImageNet and its shifted domains


def test_shots_are_taken_from_training_images_alone(tmp_path):
    imagenet(tmp_path)
    dataset = load("imagenet", tmp_path, shots=2)
    assert counts(dataset) == (24, 60, 60)
    assert labels(dataset.val) == labels(dataset.test)
    assert labels(load("imagenet", tmp_path, shots=2).train_x) == labels(dataset.train_x)
    assert labels(load("imagenet", tmp_path, shots=2, seed=2).train_x) != labels(dataset.train_x)


@pytest.mark.parametrize("builder", SHIFTED)
def test_a_shifted_domain_is_whole_whatever_the_shots(builder, tmp_path):
    _, sizes = builder(tmp_path)
    assert counts(load(builder.__name__, tmp_path, shots=1)) == sizes


def test_v2_folders_are_numbers(tmp_path):
    imagenetv2(tmp_path)
    dataset = load("imagenetv2", tmp_path)
    assert all(name.startswith(f"{label}_") for name, label in labels(dataset.test).items())
    assert dataset.lab2cname[10] == "animal 10"


def remove(folder):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@pytest.mark.parametrize(
    "builder, folder",
    [
        (imagenet, "imagenet/images/train/n00000003"),
        (imagenet, "imagenet/images/val/n00000003"),
        (imagenetv2, "imagenetv2/imagenetv2-matched-frequency-format-val/3"),
        (imagenet_sketch, "imagenet-sketch/images/n00000003"),
    ],
)
def test_a_missing_class_folder_is_named(builder, folder, tmp_path):
    builder(tmp_path)
    remove(tmp_path / folder)
    with pytest.raises(UserError, match=r"lacks 1 of its 12 class folders \((n0000000)?3\)"):
        load(builder.__name__, tmp_path)


@pytest.mark.parametrize("builder", [imagenet_a, imagenet_r])
def test_a_missing_class_folder_of_the_200_is_named(builder, tmp_path, capsys):
    builder(tmp_path)
    (file,) = tmp_path.glob("*/classnames.txt")
    wnids = [f"n{i:08}" for i in range(1000)]
    classnames(file.parent, {wnid: f"animal {wnid}" for wnid in wnids})
    cls = DATASET_REGISTRY.get(NAMES[builder.__name__])
    assert len(cls.labels) == 200 and max(cls.labels) < 1000
    images = file.parent / cls.image_dir
    for label in cls.labels:
        jpegs(images / wnids[label], "1.jpg")
    for wnid in set(WNIDS) - {wnids[label] for label in cls.labels}:
        if (images / wnid).exists():
            remove(images / wnid)
    assert load(builder.__name__, tmp_path).num_classes == 200
    assert "Note" not in capsys.readouterr().out
    remove(images / wnids[max(cls.labels)])
    assert load(builder.__name__, tmp_path).num_classes == 199
    said = capsys.readouterr().out
    assert f"'{images}' lacks 1 of its 200 class folders (n00000988)" in said
    assert "199 classes here, but 200 as published" in said


def test_a_class_folder_without_a_name_is_named(tmp_path):
    imagenet_r(tmp_path)
    folder = tmp_path / "imagenet-rendition"
    classnames(folder, {"n00000002": "animal 2"})
    with pytest.raises(UserError, match=r"no name for 1 of the 2 .*\(n00000007\)"):
        load("imagenet_r", tmp_path)
    lines(folder / "classnames.txt", "n00000002 animal 2", "n00000007")
    with pytest.raises(UserError, match="no class name behind 'n00000007'"):
        load("imagenet_r", tmp_path)
    lines(folder / "classnames.txt", "n00000002 animal 2", "n00000002 animal 7")
    with pytest.raises(UserError, match="two lines for 'n00000002'"):
        load("imagenet_r", tmp_path)
    (folder / "classnames.txt").unlink()
    with pytest.raises(UserError, match=r"imagenet/classnames\.txt'.* cannot be read"):
        load("imagenet_r", tmp_path)


def test_classes_of_one_name_are_told_and_kept(tmp_path, capsys):
    imagenet(tmp_path)
    classnames(tmp_path / "imagenet", WNIDS | {"n00000001": "missile", "n00000008": "missile"})
    dataset = load("imagenet", tmp_path)
    assert dataset.num_classes == len(dataset.classnames) == 12
    said = [line for line in capsys.readouterr().out.splitlines() if "missile" in line]
    assert len(said) == 1


def test_fewer_classes_than_published_are_told(tmp_path, capsys):
    imagenet_a(tmp_path)
    load("imagenet_a", tmp_path)
    assert "ImageNetA has 2 classes here, but 200 as published" in capsys.readouterr().out


# ---- what is said about broken data


def test_a_missing_data_set_says_what_belongs_there(tmp_path):
    for name, registered in NAMES.items():
        with pytest.raises(UserError, match=f"{registered} was looked for in") as caught:
            load(name, tmp_path)
        cls = DATASET_REGISTRY.get(registered)
        assert f"{cls.dataset_dir}/" in str(caught.value)
        assert " / " not in str(caught.value) and "'' " not in str(caught.value)


@pytest.mark.parametrize(
    "builder, missing",
    [
        (oxford_flowers, "cat_to_name.json"),
        (oxford_flowers, "imagelabels.mat"),
        (oxford_pets, "annotations/test.txt"),
        (stanford_cars, "devkit/cars_meta.mat"),
        (stanford_cars, "cars_test_annos_withlabels.mat"),
        (sun397, "ClassName.txt"),
        (ucf101, "ucfTrainTestlist/classInd.txt"),
        (fgvc_aircraft, "variants.txt"),
    ],
)
def test_a_missing_annotation_file_is_named(builder, missing, tmp_path):
    builder(tmp_path)
    (path,) = tmp_path.glob(f"*/{missing}")
    path.unlink()
    with pytest.raises(UserError, match=f"no '{path}'") as caught:
        load(builder.__name__, tmp_path)
    split = f"split_zhou_{NAMES[builder.__name__]}.json"
    assert (split in str(caught.value)) == (builder is not fgvc_aircraft)


@pytest.mark.parametrize(
    "builder, broken, content, words",
    [
        (oxford_flowers, "imagelabels.mat", "no mat", r"imagelabels\.mat'"),
        (oxford_flowers, "cat_to_name.json", '{"1": "primrose"}', "usual form .*'2'"),
        (oxford_pets, "annotations/test.txt", "Abyssinian_77", r"test\.txt' .* 3 words"),
        (oxford_pets, "annotations/test.txt", "Abyssinian_77 x 1", "usual form .*'x'"),
        (sun397, "Testing_01.txt", "/z/zoo/sun_1.jpg", "usual form .*/z/zoo"),
        (ucf101, "ucfTrainTestlist/classInd.txt", "TaiChi", r"classInd\.txt' .* 2 words"),
        (fgvc_aircraft, "images_variant_val.txt", "0034309", r"_val\.txt' .*'0034309'"),
    ],
)
def test_broken_annotations_are_told_in_one_sentence(builder, broken, content, words, tmp_path):
    builder(tmp_path)
    (path,) = tmp_path.glob(f"*/{broken}")
    path.write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        load(builder.__name__, tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_annotated_images_that_are_missing_are_counted(tmp_path):
    oxford_pets(tmp_path)
    for i in (3, 4):
        (tmp_path / "oxford_pets" / "images" / f"Abyssinian_{i}.jpg").unlink()
    with pytest.raises(UserError, match=r"OxfordPets.*_[34]\.jpg.*missing are 2 of 22"):
        load("oxford_pets", tmp_path)


def test_missing_image_folders_are_named(tmp_path):
    (tmp_path / "dtd").mkdir()
    with pytest.raises(UserError, match="class folders belong in .*dtd/images'"):
        load("dtd", tmp_path)
    (tmp_path / "dtd" / "split_zhou_DescribableTextures.json").write_text(
        json.dumps({part: [["a/1.jpg", 0, "a"]] for part in PARTS})
    )
    with pytest.raises(UserError, match="belong in .*dtd/images', which is not there"):
        load("dtd", tmp_path)


def test_a_name_that_is_null_is_none(tmp_path):
    dtd(tmp_path)
    rows = [["banded/banded 0.jpg", 0, "banded"], ["polka-dotted/polka-dotted 0.jpg", 1, None]]
    file = tmp_path / "dtd" / "split_zhou_DescribableTextures.json"
    file.write_text(json.dumps(dict.fromkeys(PARTS, rows)))
    with pytest.raises(UserError, match=r"label 1 has no name, .*polka-dotted 0\.jpg"):
        load("dtd", tmp_path)


def test_a_class_folder_without_images_is_named(tmp_path):
    dtd(tmp_path)
    lines(tmp_path / "dtd" / "images" / "woven" / "notes.txt", "no image")
    with pytest.raises(UserError, match="woven' has no images: fill or remove it"):
        load("dtd", tmp_path)


def test_a_class_folder_that_may_not_be_missing_is_to_be_filled(tmp_path):
    imagenet(tmp_path)
    folder = tmp_path / "imagenet" / "images" / "val" / "n00000003"
    remove(folder)
    folder.mkdir()
    with pytest.raises(UserError, match="n00000003' has no images: fill it$"):
        load("imagenet", tmp_path)


def test_classes_with_few_images_give_all_and_it_is_said(tmp_path, capsys):
    eurosat(tmp_path)
    dataset = load("eurosat", tmp_path, shots=8)
    assert counts(dataset) == (50, 20, 30)
    assert "Fewer than 8 images of Annual Crop Land (5)" in capsys.readouterr().out
