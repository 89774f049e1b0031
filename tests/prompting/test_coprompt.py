"""Teachers, and CoPrompt and BiomedCoOp: sentences about the classes, and which they keep."""

import copy
import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from test_method import Mine, build
from test_newer_methods import IMAGES, LABELS, NAMES, small

from benchmark.protocols.configs import GROUPS
from trainers.prompting import Teacher, UserError, build_method, read_sentences
from trainers.prompting.encoders import templates


def test_coprompt_draws_one_sentence_for_all_classes_in_each_step(tiny_clip):
    about = {name: [f"a photo of a {name}.", f"many {name}.", f"a bad {name}."] for name in NAMES}
    method = small("CoPrompt", tiny_clip, SENTENCES=about)
    second = torch.randn(4, 3, 32, 32)

    def losses(count):
        torch.manual_seed(3)
        found = [method.train().losses([IMAGES, second], LABELS) for _ in range(count)]
        return [terms["kd_text"].item() for terms in found]

    drawn = losses(12)
    h = method.output(IMAGES).text.h[0].detach()
    possible = [8 * (1 - (h * h0).sum(-1).mean()).item() for h0 in method.teacher.h_each]
    nearest = [min(range(3), key=lambda i: abs(possible[i] - value)) for value in drawn]
    assert set(nearest) == {0, 1, 2}
    assert all(abs(possible[i] - v) < 1e-4 for i, v in zip(nearest, drawn, strict=True))
    assert losses(12) == drawn


def test_coprompt_compares_with_the_second_view(tiny_clip):
    method = small("CoPrompt", tiny_clip, SENTENCES={name: [name] for name in NAMES}, W=1.0)
    other = torch.randn(4, 3, 32, 32)
    first = method.train().losses([IMAGES, IMAGES], LABELS)
    second = method.losses([IMAGES, other], LABELS)
    assert first["ce"] == second["ce"] and first["kd_image"] != second["kd_image"]
    z, z0 = method.output(IMAGES).image.z[:, 0], method.teacher.z(other)
    assert second["kd_image"].item() == pytest.approx(
        (1 - (z * z0).sum(-1).mean()).item(), abs=1e-5
    )
    method.settings = dataclasses.replace(method.settings, DISTILL="mse")
    squared = method.losses([IMAGES, other], LABELS)["kd_image"]
    assert squared.item() == pytest.approx((z - z0).square().mean().item(), abs=1e-5)


def test_sentences_are_found_by_names_with_spaces_or_underscores(tmp_path):
    path = tmp_path / "about.json"
    path.write_text(json.dumps({"sea_or_lake": ["blue", "wet"], "forest": ["green", "dark"]}))
    assert read_sentences(str(path), ["forest", "sea_or lake"]) == [
        ["green", "blue"],
        ["dark", "wet"],
    ]


def test_sentences_about_classes_that_are_not_named():
    about = {"forest": ["green", "dark"], "*": ["a {}.", "the {}."]}
    assert read_sentences(about, ["forest", "blue sea"]) == [
        ["green", "a blue sea."],
        ["dark", "the blue sea."],
    ]
    embedded = read_sentences("emoji", ["heart", "a class that nobody has seen"])
    assert embedded[0] == ["a red heart.", "a photo of a a class that nobody has seen."]


SENTENCES = {
    "none": (None, "set SENTENCES to a JSON file"),
    "no JSON": ("{", "cannot be read .*: SENTENCES needs one"),
    "no object": ("[1]", "is a list, not an object: SENTENCES"),
    "no list": ({"forest": "green", "sea": "b"}, "no list of sentences for the class 'forest'"),
    "lengths": (
        {"forest": ["green", "dark"], "sea": ["blue"]},
        "has 2 sentences for 'forest' but 1 for 'sea': give all classes the same number",
    ),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_invalid_sentences_are_refused(tmp_path, case):
    content, part = SENTENCES[case]
    source = content and str(tmp_path / "about.json")
    if content:
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "about.json").write_text(text)
    with pytest.raises(UserError, match=part) as error:
        read_sentences(source, ["forest", "sea"])
    assert "\n" not in str(error.value)


MEDICAL = [
    "glioma tumor", "benign_tumor", "tumour epithelium", "covid lungs", "cyst kidney", "melanoma",
    "healthy knee", "dyed resection margins", "lung squamous cell carcinoma", "drusen", "cataract",
]  # fmt: skip


def about(n):
    words = ["a", "the", "my", "one", "some", "no"][:n]
    return {name: [f"{word} {name}" for word in words] for name in NAMES}


def test_the_first_sentences_are_read_and_pull_the_context(tiny_clip):
    method = small("BiomedCoOp", tiny_clip, SENTENCES=about(6), N_PROMPTS=4)
    assert method.takes == ("sentences",)
    assert small("BiomedCoOp", tiny_clip, SENTENCES="medical").takes == ("llm",)
    assert method.teacher.h_each.shape == (4, len(NAMES), 64)
    assert method.teacher.sentences.rows[3] == [f"one {name}" for name in NAMES]
    method.train()
    weak, strong = (
        small("BiomedCoOp", tiny_clip, SENTENCES=about(4), N_PROMPTS=4, SCCM_LAMBDA=w).train()
        for w in (1.0, 3.0)
    )
    losses = [each.losses(IMAGES, LABELS)["sccm"].item() for each in (weak, strong)]
    assert losses[1] == pytest.approx(3 * losses[0]) and losses[0] > 0


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([1, 1, 1, 2, 3, 1], [1, 1, 1, 1, 0, 1]),  # the median deviation is 0: nan in public code
        ([17.3, 17.3, 17.3], [1, 1, 1]),
        ([0, 1, 2, 3, 40], [1, 1, 1, 1, 0]),
    ],
)
def test_outliers_are_pruned_also_where_most_scores_are_equal(scores, kept, tiny_clip):
    method = small("BiomedCoOp", tiny_clip, SENTENCES=about(2), N_PROMPTS=2)
    assert method.find_kept(torch.tensor(scores, dtype=torch.float32)).tolist() == [
        *map(bool, kept)
    ]


def test_templates_stand_for_sentences_and_a_note_says_so(tiny_clip, capsys):
    method = small("BiomedCoOp", tiny_clip, N_PROMPTS=3)
    assert method.takes == () and capsys.readouterr().out == ""
    rows = method.teacher.sentences.rows
    first = "a centered satellite photo of"  # of EuroSAT
    assert rows[0] == [f"{first} {name}." for name in NAMES]
    assert rows[1] == [templates.CLIP[0].replace("{}", name) for name in NAMES]
    assert f"takes 3 templates, such as '{first} {{}}.'" in capsys.readouterr().out


def test_an_evaluation_needs_no_sentences(tiny_clip):
    method = small("BiomedCoOp", tiny_clip, SENTENCES="not_there.json").eval()
    assert method(IMAGES).shape == (4, len(NAMES))
    with pytest.raises(UserError, match="not_there.json' cannot be read"):
        method.train().losses(IMAGES, LABELS)


def test_the_context_starts_at_random_with_another_number_of_tokens(tiny_clip):
    assert small("BiomedCoOp", tiny_clip).start == "a photo of a"
    other = small("BiomedCoOp", tiny_clip, N_CTX=3, CSC=True)
    assert other.start == "" and other.prompt_learner.ctx.shape[:2] == (len(NAMES), 3)


def test_the_embedded_sentences_are_about_the_medical_classes():
    assert len(GROUPS["medical"]) == len(MEDICAL)
    rows = read_sentences("medical", MEDICAL)
    assert len(rows) == 50 and all(text and "{" not in text for row in rows for text in row)


# ------------------------------------------------------------------ teachers


def test_the_teacher_is_zero_shot_clip(tiny_clip):
    zero_shot = build_method("ZeroshotCLIP", {}, tiny_clip, NAMES).eval()
    teacher = Teacher(tiny_clip, NAMES, ["a photo of a {}."])
    logits = teacher.logits(teacher.z(IMAGES))
    assert torch.allclose(logits, zero_shot(IMAGES), atol=1e-4)
    assert not teacher.h.requires_grad and teacher.h is teacher.h
    several = Teacher(tiny_clip, NAMES, ["a photo of a {}.", "a photo of the {}."])
    assert not torch.allclose(several.h, teacher.h, atol=1e-4)


def test_a_teacher_of_several_sentences(tiny_clip):
    """Features are averaged, then normalised; `h_each` has them for each sentence."""
    templates = ["a photo of a {}.", "a photo of many {}.", "a sculpture of a {}."]
    teacher = Teacher(tiny_clip, NAMES, templates)
    alone = [Teacher(tiny_clip, NAMES, [template]).h for template in templates]
    assert torch.allclose(teacher.h_each, torch.stack(alone), atol=1e-6)
    given = Teacher(tiny_clip, NAMES, [[t.format(n) for n in NAMES] for t in templates])
    assert torch.equal(given.h, teacher.h)


class Student(Mine):
    """Learns from a second CLIP, which has other weights."""

    def build(self, clip_model, classnames, dataset):
        super().build(clip_model, classnames, dataset)
        other = copy.deepcopy(clip_model)
        other.text_projection.data.mul_(2)
        self.teacher = Teacher(other, classnames, ["a photo of a {}."])

    def loss(self, output, batch):
        return F.mse_loss(output.text.h[0], self.teacher.h.to(output.text.h))


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("to", [torch.float64, "meta"])
def test_a_teacher_with_another_clip_moves_with_the_method(tiny_clip, to, early):
    """Its features, too, if they have been computed before."""
    method = build(Student, copy.deepcopy(tiny_clip))
    other = method.teacher.clip_model
    before = method.teacher.h if early else None
    method.to(to)

    def moved(x):
        return x.device.type == "meta" if to == "meta" else x.dtype == to

    assert all(moved(p) for p in (*other.parameters(), *method.learned().values()))
    if early:
        assert moved(method.teacher.h) and method.teacher.h.shape == before.shape
    assert not any(p.requires_grad for p in other.parameters())


def test_a_teacher_is_neither_learned_nor_saved(tiny_clip):
    method, plain = build(Student, copy.deepcopy(tiny_clip)), build(Mine, tiny_clip)
    before = {name: value.clone() for name, value in method.teacher.clip_model.state_dict().items()}
    method.backward(method.train().losses(IMAGES, LABELS))
    assert method.state_dict().keys() == plain.state_dict().keys()
    assert set(method.learned()) == set(method.public_state_dict()) == {"prompt_learner.ctx"}
    assert not method.own_state() and not list(method.teacher.parameters())
    after = method.teacher.clip_model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


@pytest.mark.parametrize(
    ("name", "node"),
    [("TCP", {"INSERT_BLOCK": 2}), ("CLAP", {"CONSTRAINT": "none"}), ("ProGrad", {})],
)
def test_a_step_may_follow_an_inference(tiny_clip, name, node):
    """Features that inference mode computes first are kept for training, too."""
    method = build_method(name, node, tiny_clip, NAMES).eval()
    with torch.inference_mode():
        method(IMAGES)
    method.train()
    method.backward(method.losses(IMAGES, LABELS))
    assert any(p.grad is not None for p in method.learned().values())


def test_logits_of_a_teacher_are_not_rounded(tiny_clip):
    teacher = Teacher(tiny_clip, NAMES, ["a photo of a {}."])
    z = teacher.z(IMAGES)
    with torch.autocast("cpu", torch.bfloat16):
        assert teacher.logits(z).dtype == torch.float32
