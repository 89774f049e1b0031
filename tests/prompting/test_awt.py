"""AWT: the numbers of its golden file, its weights, sentences, mistakes."""

import pytest
import torch
import torch.nn.functional as F
from golden_files import awt, awt_few_shot, awt_views, near, read
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
    return awt(golden, tiny_clip).eval()


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


# ------------------------------------------------------------------ few-shot


def test_a_step_of_the_few_shot_form(golden, tiny_clip):
    method, tensors = awt_few_shot(golden, tiny_clip).train(), golden.tensors
    batch = method.batch(awt_views(golden), tensors["label"])
    output = method.output(batch.images)
    assert near(output.logits, tensors["logits"])
    terms = method.terms(output, batch)
    expected = {"loss": tensors["loss"], **golden.part("loss/")}
    assert terms.keys() == expected.keys()
    assert all(near(terms[name], value) for name, value in expected.items())
    method.backward(terms)
    own, grads = method.public_parameters(), golden.part("grad/")
    assert {name.removeprefix("adapter_learners.") for name in own} == grads.keys()
    for name, value in grads.items():
        error = (own[f"adapter_learners.{name}"].grad.reshape(value.shape) - value).norm()
        assert error < 1e-3 * value.norm() + 1e-7, f"{name}: {error / value.norm():.2e}"


@pytest.mark.parametrize("classes, end", [("classnames", ""), ("new_classnames", "_new")])
def test_a_test_of_the_few_shot_form(golden, tiny_clip, classes, end):
    method = awt_few_shot(golden, tiny_clip, classes).eval()
    found = method.predict(golden.test_images)
    assert near(found.logits, golden.tensors[f"logits_eval{end}"])
    if not end:
        assert near(found.logits, golden.tensors["logits_eval_single"])
    kept = method.predict(golden.test_images)
    assert torch.equal(found.logits, kept.logits)


def test_it_starts_as_the_zero_shot_form(golden, method, tiny_clip):
    node = {"DOWN_RATE": 16}
    start = awt(golden, tiny_clip, "AWTFewShot", **node).eval()
    expected = method.predict(golden.test_images).logits
    assert near(start.predict(golden.test_images).logits, expected)
    text = start.adapter_learners["text_adapter_learner"]
    one, other = (
        text[place][i].down_proj.weight for place, i in (("adapt_attn", 0), ("adapt_mlp", 2))
    )
    assert torch.equal(one, other) and one.any()


def test_draws_keep_the_template_and_are_shared_by_classes(golden, tiny_clip):
    method, seen = awt(golden, tiny_clip, "AWTFewShot", DOWN_RATE=16, DESC_PER_BATCH=3), set()
    encoder = method.train().text_encoder
    for _ in range(40):
        encoder.draw()
        assert encoder.drawn[0] == 0 and len(set(encoder.drawn)) == 3
        seen |= {*encoder.drawn}
        rows = [[own[i] for own in encoder.lists] for i in encoder.drawn]
        assert encoder.sentences == rows
    assert seen == {*range(6)}


def test_a_step_needs_eight_views(tiny_clip):
    method = build_method("AWTFewShot", {"DOWN_RATE": 16}, tiny_clip, NAMES).train()
    with pytest.raises(UserError, match="learns from 8 views .* set DATALOADER.K_TRANSFORMS 8"):
        method.losses([images(2)] * 7, torch.tensor([0, 1]))
