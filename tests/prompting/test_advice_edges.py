"""Edges of the advice: left-out classes, the chart, the page, the budget, names of classes.

It is long because the advice has many parts, each with limits of its own. Most fits are short.
"""

import base64
import doctest
import io
import math
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_advice import D, K, answers, clusters, of, short  # noqa: F401 (a fixture)

from trainers.prompting import UserError, build_method
from trainers.prompting.advice import choice as choices
from trainers.prompting.advice import encode as encoding
from trainers.prompting.advice import fits
from trainers.prompting.advice import folds as parts
from trainers.prompting.advice import images as sources
from trainers.prompting.advice import labels as about
from trainers.prompting.advice import page as pages
from trainers.prompting.advice import statement as statements
from trainers.prompting.advice.next_steps import next_steps
from trainers.prompting.advice.statement import Statement
from trainers.prompting.backbones import weights_sha256
from trainers.prompting.record import calibration as calibrations
from trainers.prompting.storage.features import read_features, write_features

# ---------------------------------------------------------------------- labels


def test_a_hundred_classes_are_left_out_in_turn():
    """Of 102, drawn by chance; each has one image."""
    space, y = clusters(each=1, classes=102)
    found = about.calibration(of(10 * np.eye(102)[y], y), space)
    assert len(found.strangers) == 100 and (found.strangers.diff() >= 0).all()


def test_classes_with_fewer_labels_than_folds_are_no_warning():
    y = np.repeat([0, 1, 2], [9, 9, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for groups in (np.arange(20), np.arange(20) // 2):
            fold = parts.folds(y, groups, 5)
            assert {*fold} == {*range(5)}


def test_near_copies_are_found_in_parts(monkeypatch):
    space, y = clusters(noise=2.0)
    images, y = torch.cat([space.images, space.images[:6] + 0.01]), np.r_[y, y[:6]]
    one, rows = fits.Space("a", images, space.text, 30.0), np.arange(46)
    whole = parts.near_copies([one], rows, y)
    assert np.array_equal(whole[:6], whole[40:])
    monkeypatch.setattr(parts, "CHUNK", 7)
    assert np.array_equal(parts.near_copies([one], rows, y), whole)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 40.0])
def test_one_weight_of_gda_is_that_of_a_fit_with_it(alpha):
    space, y = clusters(noise=1.5)
    rows, others = np.arange(20), np.arange(20, 40)
    fitted = space.fit("GDA", rows, y[:20], ALPHA=alpha)
    with torch.no_grad():
        expected = fitted(space.images[others]).numpy()
    near = {"rel": 1e-4, "abs": 1e-4 * float(abs(expected).max())}
    alone = space.logits("GDA", rows, y[:20], others, ALPHA=alpha)
    assert alone == pytest.approx(expected, **near)
    nodes = [{"ALPHA": 7.0}, {"ALPHA": alpha}]
    assert space.logits_with(nodes, "GDA", rows, y[:20], others)[1] == pytest.approx(
        expected, **near
    )


def test_the_span_is_taken_where_it_is_smaller():
    """Of n rows and K classes, and one number more."""
    space, _ = clusters()
    small = space.span(np.arange(D - K - 2))
    assert small.images.shape == (40, D - 1) and small.width == D
    assert space.span(np.arange(D - K - 1)) is space


def test_clap_is_trained_by_the_published_schedule():
    """In a plain loop: SGD at 0.1 with momentum 0.9, 1e-5 in the first of 300 epochs, a cosine."""
    space, y = clusters(noise=1.5, each=4)
    fitted = space.fit("CLAP", slice(None), y)
    x, labels, names = space.images, torch.from_numpy(y), [*"0123"]
    plain = build_method("CLAP", fits.SETTINGS["CLAP"], space.clip_model, names,
                         support={"images": x, "labels": labels})  # fmt: skip
    learned = plain.learned()
    optimizer = torch.optim.SGD(learned.values(), 0.1, 0.9)
    for epoch in range(300):
        rate = 0.05 * (1 + math.cos(math.pi * epoch / 300)) if epoch else 1e-5
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        plain.losses(x, labels)["loss"].backward()
        optimizer.step()
        plain.after_epoch(epoch + 1, 300)
    for name, p in fitted.learned().items():
        torch.testing.assert_close(p, learned[name], rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------------- the statement


@pytest.mark.parametrize("right, said", [(129, True), (130, False)])
def test_zero_shot_is_named_where_it_is_right_on_more(right, said):
    lines = Statement(answers(right, 152)).sentences()
    assert ("Zero-shot ViT-L/14 is right on more of these: 130 of 152." in lines) == said


@pytest.mark.parametrize(
    "each, about_said, silent",
    [(1.5, False, True), (2, False, False), (3.5, False, False), (4, True, False)],
)
def test_what_is_said_at_the_limits_of_labels_a_class(each, about_said, silent):
    counts = [int(each), int(each + 0.5)] * 2  # the median is between them
    labels = np.arange(40) % 4
    choice = of(10 * np.eye(4)[labels], labels, counts=counts, zero_shot=30)
    curve = statements.Curve((10, 20, 32), (0.7, 0.94, 0.95))
    text = " ".join(Statement(choice, curve).sentences())
    assert ("about 100%" in text) == about_said and ("at least 88%" in text) != silent
    assert ("With 50% of these labels it was right on 94%, with 80% on 95%." in text) == about_said
    unsaid = "Fewer than two labels a class say nothing about accuracy: zero-shot is right on 30 of"
    assert (unsaid in text) == silent


def told_of(choice, silent="", **numbers):
    """Return a statement with these numbers."""
    numbers = dict.fromkeys(["least", "of_others", "accuracy"]) | numbers
    return SimpleNamespace(choice=choice, silent=silent, unanswered=[], **numbers)


@pytest.mark.parametrize(
    "numbers, words",
    [({"accuracy": 0.9, "of_others": 0.85}, "Of 100 images of other series, about 15 get"),
     ({"accuracy": 0.9}, "Of 100 such images, about 10 get"),
     ({}, "Whether it is enough for a purpose is not known. Fewer than four labels a class, in")],
)  # fmt: skip
def test_for_what_images_in_series_are_enough(numbers, words):
    y = np.arange(4) % 2
    assert next_steps(told_of(of(np.eye(2)[y], y), **numbers), "ab")[0].startswith(words)


@pytest.mark.parametrize(
    "n, words",
    [(24, ", though so few labels show only that up to 19 may: enough to sort images that someone"),
     (104, ": enough to sort or count images without")],
)  # fmt: skip
def test_few_labels_are_not_enough_to_sort_without_a_look(n, words):
    y = np.arange(n) % 2
    (line,) = next_steps(told_of(of(np.eye(2)[y], y), accuracy=1.0, of_others=1.0), "ab")
    assert line.startswith(f"Of 100 images of other series, about 0 get a wrong class{words}")


@pytest.mark.parametrize(
    "low, purpose",
    [(1.0, "to sort or count images without"), (0.95, "to sort or count images without"),
     (0.9499, "to sort images that someone looks"), (0.8, "to sort images that someone looks"),
     (0.7999, "to find examples"), (0.0, "to find examples")],
)  # fmt: skip
def test_for_what_an_accuracy_is_enough(low, purpose):
    y = np.arange(4) % 2
    told = told_of(of(np.eye(2)[y], y), least=low)
    (line,) = next_steps(told, ["a", "b"])
    assert line.startswith(f"Of 100 such images, up to {100 - int(100 * low)} get a wrong class: ")
    assert f"enough {purpose}" in line


def test_five_classes_are_named_first_those_without_labels():
    y = np.repeat(np.arange(7), [0, 10, 4, 4, 4, 0, 5])
    wrong = {1: 5, 2: 1, 3: 2, 4: 3, 6: 0}
    said = y.copy()
    for k, number in wrong.items():
        said[np.flatnonzero(y == k)[:number]] = 0
    told = told_of(of(np.eye(7)[said], y), least=0.9)
    *_, line = next_steps(told, [*"abcdefg"])
    assert line.startswith("Add images")
    shares = "e (3 of 4 wrong), b (5 of 10 wrong), d (2 of 4 wrong)"
    assert line.endswith(f"first of these classes: a (0 labels), f (0 labels), {shares}.")
    told.choice = of(np.eye(2)[[0, 0, 0]], [0, 0, 1])
    assert next_steps(told, "ab")[1].endswith("first of these classes: b (1 of 1 wrong).")


def test_an_accuracy_that_is_not_known_is_enough_for_nothing():
    y = np.repeat([0, 1], [2, 1])
    told = told_of(of(np.eye(2)[1 - y], y), silent="Too few")
    assert next_steps(told, "ab") == [
        "Whether it is enough for a purpose is not known. Too few.",
        "Add images, first of these classes: b (1 labels), a (2 labels).",
    ]


# ---------------------------------------------------------------------- the page


@pytest.mark.parametrize(
    "accuracy, floor",
    [((0.62, 0.7, 0.85), 60), ((0.5, 0.8, 0.9), 50), ((0.93, 0.97, 1.0), 90),
     ((1.0, 1.0, 1.0), 90)],
)  # fmt: skip
def test_the_picture_has_a_logarithmic_axis_of_labels(accuracy, floor):
    (axis,) = pages.draw_curve(statements.Curve((100, 200, 1600), accuracy)).axes
    (line,) = axis.lines
    assert axis.get_xscale() == "log" and line.get_xdata().tolist() == [100, 200, 1600]
    assert line.get_ydata() == pytest.approx([100 * share for share in accuracy])
    assert [label.get_text() for label in axis.get_xticklabels()] == ["100", "200", "1,600"]
    assert axis.get_ylim() == (floor, 100.5) and not axis.get_xticks(minor=True).size
    assert axis.get_xlabel() == "Labels" and axis.get_ylabel() == "Right, %"


def test_the_picture_is_the_same_each_time():
    one, other = ((0.5, 0.75), (0.5, 0.76))
    drawn = lambda y: pages._chart(pages.draw_curve(statements.Curve((100, 200), y)))  # noqa: E731
    svg = drawn(one)
    assert svg == drawn(one) != drawn(other)
    assert b"<svg" in base64.b64decode(svg)


def drawn(folder, names):
    """Write an image by each name, of another colour, and return the paths."""
    for i, name in enumerate(names):
        Image.new("RGB", (8, 8), (3 * i, 99, 255 - 3 * i)).save(folder / name)
    return [str(folder / name) for name in names]


def test_the_page_shows_twelve_pairs_of_twelve_images_and_twelve_labels(tmp_path):
    labels = np.arange(76) % 19
    said = Statement(of(10 * np.eye(19)[labels], labels, counts=[4] * 19))
    names = [f"class{k:02}" for k in range(19)]
    paths, empty = drawn(tmp_path, [f"{i:02}.png" for i in range(76)]), [""] * 76
    collection = sources.Collection(tmp_path, names, paths, labels, empty, empty)
    pairs = [(k, k + 1, np.arange(13 - k)) for k in range(13)]
    said.choice.judged[0] = False
    said.choice.best.logits[1] = said.choice.best.logits[2]
    html = pages.page_of(collection, said, pairs, np.arange(76), {}, [])
    assert len(re.findall("<h3>", html)) == 12
    assert "<h3>class00 taken for class01: 13</h3>" in html and "class12 taken for" not in html
    shown = html.partition("<h3>class00")[2].partition("<h3>")[0]
    assert [f"{i:02}.png" for i in range(12)] == re.findall("<figcaption>(.*?)</", shown)
    wrong = html.partition('id="labels"')[2].partition("<h2")[0]
    texts = re.findall("<figcaption>(.*?)</", wrong)
    right = [f"{names[k]}: {k:02}.png" for k in range(2, 13)]
    assert texts == ["class01 taken for class02: 01.png", *right]


@pytest.mark.parametrize("number", [1, 50, 53])
def test_the_page_names_fifty_images_that_were_left_out(tmp_path, number):
    said = Statement(of(np.eye(2)[[0, 1]], [0, 1]))
    paths, empty = drawn(tmp_path, ["a.png", "b.png"]), ["", ""]
    collection = sources.Collection(tmp_path, ["a", "b"], paths, np.arange(2), empty, empty)
    collection.left_out += [(f"<{i}>.gif", "its format is not read") for i in range(number)]
    html = pages.page_of(collection, said, [], np.arange(0), {}, [])
    part = html.partition("<h2>Left out</h2>")[2].partition("</details>")[0]
    assert f"<summary>{number} images and why</summary>" in part
    assert part.count("its format is not read</li>") == min(number, 50)
    assert "<li>&lt;0&gt;.gif: its format" in part
    assert ("and 3 more: log.txt names those in class folders" in part) == (number == 53)
    collection.left_out.clear()
    assert "Left out" not in pages.page_of(collection, said, [], np.arange(0), {}, [])


def test_names_on_the_page_are_text(tmp_path):
    labels = np.arange(8) % 2
    said = Statement(of(10 * np.eye(2)[1 - labels], labels))
    names, empty = ["<b>cat</b>", 'dog" onerror="x'], [""] * 8
    paths = drawn(tmp_path, [f"<i>{i}.png" for i in range(8)])
    table = tmp_path / "<u>.csv"
    collection = sources.Collection(table, names, paths, labels, empty, empty)
    pairs = [(0, 1, np.arange(2))]
    html = pages.page_of(collection, said, pairs, np.arange(2), {"<s>": "a <tt>"}, ["<em>"])
    assert not any(mark in html for mark in ("<b>", "<i>", "<u>", "<s>", "<tt>", "<em>"))
    assert 'onerror="x' not in html and "&lt;b&gt;cat&lt;/b&gt;" in html


def test_an_image_of_the_page_is_at_most_160_pixels_wide(tmp_path):
    Image.new("RGB", (400, 200), (9, 99, 199)).save(tmp_path / "a.png")
    with Image.open(io.BytesIO(base64.b64decode(pages._jpeg(str(tmp_path / "a.png"))))) as image:
        assert image.size == (160, 80) and image.format == "JPEG"
        assert np.abs(np.array(image)[40, 80] - (9.0, 99, 199)).max() < 5


def test_candidates_have_shares_in_percent():
    rows = pages.candidates(Statement(answers(147, 152)))
    assert rows == [("LPPlusPlus on ViT-L/14", "96.7", "91.4", "85.5")]
    silent = pages.candidates(Statement(answers(147, 152, each=1)))
    assert silent == [("LPPlusPlus on ViT-L/14", "-", "-", "85.5")]


# ---------------------------------------------------------------------- images and features


def collection_of(labels, digests="", classes="ab"):
    n = len(labels)
    digests = [*digests] or [f"d{i}" for i in range(n)]
    paths = [f"{i}.png" for i in range(n)]
    return sources.Collection(Path(), [*classes], paths, np.array(labels), [""] * n, digests)


def test_copies_with_two_labels_are_named_in_pairs():
    one = collection_of([2, 0, 1, 0, 1, 1], "wxxyyz")
    assert one.contradictions() == [("1.png", "2.png"), ("3.png", "4.png")]
    assert collection_of([0, 0, 0, 1], "xxxy").contradictions() == []


@pytest.mark.parametrize("most, left_out", [(30.0, False), (29.5, True), (-5.0, True)])
def test_the_time_of_all_images_is_estimated_from_the_first(monkeypatch, tmp_path, capsys, most,
                                                            left_out):  # fmt: skip
    """Two of eight images take 10 s, so that the other six take 30."""
    clock = [100.0]

    def batches(one, clip_model, paths, size):
        order = [*paths]
        for start in range(0, len(order), size):
            clock[0] += 10
            one.rows |= {
                x: torch.full((128,), 1 + float(x[1:])) for x in order[start : start + size]
            }
            yield len(order[start : start + size])

    monkeypatch.setattr(encoding, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(encoding, "_encode_images", batches)
    one = collection_of([0, 0, 1, 1, 0, 1, 1, 0])
    call = "emoji", one, tmp_path, torch.device("cpu")
    if left_out:
        left = f"{max(0.0, most):.0f} s"
        said = f"8 images would take 30 s, and --budget leaves {left}"
        with pytest.raises(UserError, match=f"^{said}$"):
            encoding.encode(*call, 2, most)
        capsys.readouterr()
        assert len(encoding.encode(*call, 8, -1.0).rows) == 8  # at once: none is left to wait for
        assert " in about " not in capsys.readouterr().out
        return
    done = encoding.encode(*call, 2, most)
    assert "emoji: 8 images in about 30 s" in capsys.readouterr().out and len(done.rows) == 8
    kept = read_features(done.file)
    assert kept.split["train"] == [*range(8)] and not kept.split["test"]
    assert kept.label.tolist() == [0, 0, 1, 1, 0, 1, 1, 0]
    assert kept.image[:, 0].tolist() == [*range(1, 9)] and kept.images == one.digests


def stored(file, images, number=7.0, **header):
    """Write a file of features of the embedded CLIP, such as a call has left."""
    kept = {"classnames": ["a", "b"], "split": {"train": [], "val": [], "test": []}}
    kept |= {"images": images, "logit_scale": 20.0, "normalised": False, "clip": "emoji"}
    kept |= {"template": encoding.TEMPLATE, "dataset": "ImageFolder"}
    kept |= {"made_of": f"upright {weights_sha256('emoji')}"} | header
    n = len(images)
    tensors = {"image": torch.full((n, 128), number), "label": torch.zeros(n, dtype=torch.long)}
    write_features(file, tensors | {f"text/{kept['template']}": torch.eye(2, 128)}, kept)


@pytest.mark.parametrize(
    "header, used",
    [
        ({}, True),
        ({"made_of": "upright " + "0" * 64}, False),
        ({"made_of": weights_sha256("emoji")}, False),
        ({"template": "a drawing of a {}."}, False),
    ],
    ids=["the same", "other weights", "not upright", "another sentence"],
)
def test_features_of_other_weights_or_sentences_are_computed_again(tmp_path, header, used):
    """Of two images they are 7 in the file."""
    stored(tmp_path / "emoji.safetensors", ["d0", "d2", "gone"], **header)
    collection = collection_of([0, 0, 1])
    collection.paths = drawn(tmp_path, collection.paths)
    one = encoding.encode("emoji", collection, tmp_path, torch.device("cpu"), 8, 1e9)
    of_file = (one.space(collection).images == 7).all(1)
    assert of_file.tolist() == [used, False, used] and len(one.rows) == 3 + used


def test_temperatures_at_their_bounds():
    y = np.arange(8) % 4
    for scale, found, right in ((0.01, 0.05, y), (1e7, 1e6, (y + 1) % 4)):
        t, _ = calibrations.fit_temperature(scale * np.eye(4)[right], y, choices.TEMPERATURES)
        assert t == pytest.approx(found, rel=1e-3)


def test_durations_in_words():
    run = doctest.testmod(encoding, optionflags=doctest.ELLIPSIS)
    assert run.attempted and not run.failed
    assert [encoding.duration(x) for x in (89, 90, 120, 1000)] == ["89 s", "2 min", "2 min",
                                                                   "17 min"]  # fmt: skip


@pytest.fixture
def folders(tmp_path):
    """Return a folder with two class folders, each with an image."""
    for name in ("cat", "dog_a"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8), {"cat": "red"}.get(name, "blue")).save(tmp_path / name / "a.png")
    return tmp_path


@pytest.mark.parametrize(
    "folder, said",
    [
        ("Cat", "the folder 'Cat' ('Cat') and the folder 'cat' ('cat') seem to name one class"),
        ("dog a", "the folder 'dog a' ('dog a') and the folder 'dog_a' ('dog a') seem to name one"),
    ],
)
def test_two_names_of_one_class_are_refused(folders, folder, said):
    (folders / folder).mkdir()
    with pytest.raises(UserError, match=f"^{re.escape(said)}"):
        sources.read_collection(folders)


def test_a_table_of_images(folders):
    table, copy = folders / "table.csv", folders / "copy.png"
    copy.write_bytes((folders / "cat" / "a.png").read_bytes())
    table.write_text("path,label,group\ncat/a.png,cat,x\ndog_a/a.png,dog,y\ncopy.png,dog,\n")
    one = sources.read_collection(table)
    assert one.classnames == ["cat", "dog"] and one.labels.tolist() == [0, 1, 1]
    assert one.groups == ["x", "y", ""] and one.names == ["cat/a.png", "dog_a/a.png", "copy.png"]
    assert one.contradictions() == [("cat/a.png", "copy.png")]
