"""AWT: the numbers of its golden file, its weights, sentences, mistakes."""

import pytest
import torch
import torch.nn.functional as F
from golden_files import near, read
from models import images
from paths import GOLDEN

from trainers.prompting import UserError, build_method
from trainers.prompting.methods.awt import entropies_with
from trainers.prompting.sure_views import entropy

NAMES = ["cat", "dog"]
ABOUT = {"cat": ["it purrs.", "soft"], "dog": ["it barks.", "loyal"]}


@pytest.fixture(scope="module")
def golden():
    return read(GOLDEN / "awt.safetensors")


@pytest.fixture
def method(golden, tiny_clip):
    names, first = golden.meta["classnames"], "a satellite photo of"
    lists = {name: own[1:] for name, own in golden.meta["sentences"].items()}
    starts = {name: own[0] for name, own in golden.meta["sentences"].items()}
    about = {name: [x.removeprefix(starts[name] + " ") for x in lists[name]] for name in names}
    node = {"CTX_INIT": first, "SENTENCES": about}
    return build_method("AWT", node, tiny_clip, names, golden.meta["dataset"]).eval()


def test_every_number_of_the_zero_shot_form(golden, method):
    expected = golden.part("zero_shot/")
    assert near(method.each, expected["text"], 1e-5)
    with torch.no_grad():
        views = torch.stack([method.clip_features(view) for view in golden.test_images], 1)
    x = F.normalize(views, dim=-1)
    assert near(x, expected["features"], 1e-5)
    logits, a, b, plan = method.transport(x, method.each)
    assert near(a, expected["image_weights"], 1e-5)
    assert near(b, expected["text_weights"], 1e-5)
    assert near(plan, expected["plans"], 1e-5)
    assert near(logits, expected["logits_eval"])
    output = method.predict(golden.test_images)
    assert near(output.logits, expected["logits_eval"]) and not output.logits.requires_grad


def test_images_do_not_depend_on_those_beside_them(golden, method):
    views = golden.test_images
    every = method.predict(views).logits
    each = torch.cat([method.predict([x[i : i + 1] for x in views]).logits for i in range(5)])
    assert torch.allclose(every, each, atol=1e-5)


@pytest.mark.parametrize("gap", [1.0, 30.0, 60.0])
def test_entropies_where_a_class_has_nearly_all(gap):
    """Against float64 and the definition, with each entry replaced in turn."""
    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    logits[:, 1] += gap
    exact = logits.double().mean(-1)[:, None, None].repeat(1, 5, 3, 1)
    for k in range(5):
        exact[:, k, :, k] = logits[:, k].double()
    expected = entropy(exact)
    found = entropies_with(logits).double()
    assert (found - expected).abs().max() < 1e-5


def test_the_templates_of_a_data_set_and_descriptions(tiny_clip):
    def written(dataset="OxfordPets", **node):
        method = build_method("AWT", node, tiny_clip, NAMES, dataset)
        return method.write(NAMES, dataset)

    start = "a photo of a cat from OxfordPets."
    assert written(SENTENCES=ABOUT)[0] == [start, f"{start} it purrs.", f"{start} soft"]
    assert written(SENTENCES=ABOUT, NUM_DESCRIPTOR=1)[1][1:] == [
        "a photo of a dog from OxfordPets. it barks."
    ]
    assert written() == [[start], ["a photo of a dog from OxfordPets."]]
    assert written(CTX_INIT="a photo of a")[1] == ["a photo of a dog."]


def test_one_view_and_one_sentence_are_zero_shot_clip(tiny_clip):
    node = {"CTX_INIT": "a photo of a", "NUM_VIEWS": 1}
    method = build_method("AWT", node, tiny_clip, NAMES).eval()
    plain = build_method("ZERO", {"CTX_INIT": "a photo of a"}, tiny_clip, NAMES).eval()
    expected = plain(images(3))
    assert near(method.predict(images(3)).logits, expected)
    assert near(method(images(3)), expected)


def test_descriptions_of_unequal_number_are_refused(tiny_clip):
    about = ABOUT | {"dog": ["it barks."]}
    with pytest.raises(UserError, match="has 1 for 'dog' but 2 for others"):
        build_method("AWT", {"SENTENCES": about}, tiny_clip, NAMES)
