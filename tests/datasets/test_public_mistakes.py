"""Public data sets with missing, broken or odd files."""

import json

import pytest
from dassl.data.datasets import DATASET_REGISTRY
from public_layouts import (
    NAMES,
    WNIDS,
    classnames,
    dtd,
    fgvc_aircraft,
    imagenet,
    imagenet_a,
    imagenet_r,
    imagenet_sketch,
    imagenetv2,
    jpegs,
    lines,
    load,
    oxford_flowers,
    oxford_pets,
    stanford_cars,
    sun397,
    ucf101,
)

from trainers.prompting import UserError


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
    said = capsys.readouterr().out
    assert said.count("Note") == 1 and " has 200 classes and 20" in said  # of few test images
    remove(images / wnids[max(cls.labels)])
    assert load(builder.__name__, tmp_path).num_classes == 199
    said = capsys.readouterr().out
    assert f"'{images}' lacks 1 of its 200 class folders (n00000988)" in said
    assert " has 199 classes and " in said and "but 200 and " in said


def test_a_class_folder_without_a_name_is_named(tmp_path):
    imagenet_r(tmp_path)
    folder = tmp_path / "imagenet-rendition"
    classnames(folder, {"n00000002": "animal 2"})
    with pytest.raises(UserError, match=r"no name for 1 of the 2 .*\(n00000007\)"):
        load("imagenet_r", tmp_path)
    lines(folder / "classnames.txt", "n00000002 animal 2", "n00000002 animal 7")
    with pytest.raises(UserError, match="two lines for 'n00000002'"):
        load("imagenet_r", tmp_path)
    (folder / "classnames.txt").unlink()
    with pytest.raises(UserError, match=r"imagenet/classnames\.txt'.* cannot be read"):
        load("imagenet_r", tmp_path)


# ---- messages about broken data


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
        (oxford_flowers, "imagelabels.mat", "no mat" * 99, "usual form"),
        (oxford_flowers, "cat_to_name.json", '{"1": "primrose"}', "usual form .*'2'"),
        (oxford_pets, "annotations/test.txt", "Abyssinian_77", "usual form"),
        (oxford_pets, "annotations/test.txt", "Abyssinian_77 x 1", "usual form .*'x'"),
        (sun397, "Testing_01.txt", "/z/zoo/sun_1.jpg", "usual form .*/z/zoo"),
        (ucf101, "ucfTrainTestlist/classInd.txt", "TaiChi", "usual form"),
        (fgvc_aircraft, "images_variant_val.txt", "0034309", "usual form"),
    ],
)
def test_broken_annotations_are_one_sentence(builder, broken, content, words, tmp_path):
    builder(tmp_path)
    (path,) = tmp_path.glob(f"*/{broken}")
    path.write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        load(builder.__name__, tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_missing_image_folders_are_named(tmp_path):
    (tmp_path / "dtd").mkdir()
    with pytest.raises(UserError, match="class folders belong in .*dtd/images'"):
        load("dtd", tmp_path)


def test_a_split_file_with_an_image_in_two_parts_is_refused(tmp_path):
    """Copies are not, since published data have some: here all files are alike."""
    dtd(tmp_path)
    load("dtd", tmp_path)
    file = tmp_path / "dtd" / "split_zhou_DescribableTextures.json"
    split = json.loads(file.read_text())
    moved = [["./" + path, *rest] for path, *rest in split["train"][:3]]
    file.write_text(json.dumps(split | {"test": split["test"] + moved}))
    with pytest.raises(UserError, match=r"^3 images of .*dtd' are also in another part, such as"):
        load("dtd", tmp_path)


def test_a_split_file_that_is_a_broken_link_is_not_replaced(tmp_path):
    dtd(tmp_path)
    file = tmp_path / "dtd" / "split_zhou_DescribableTextures.json"
    file.symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match="split_zhou"):
        load("dtd", tmp_path)
