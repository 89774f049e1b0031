"""BiomedCoOp: its sentences, which of them it keeps, and mistakes. Parity: test_open_towers."""

import pytest
import torch
from newer import IMAGES, LABELS, NAMES, build

from benchmark.protocols.configs import GROUPS
from trainers.prompting import UserError
from trainers.prompting.encoders.templates import CLIP
from trainers.prompting.teacher import sentences_of

MEDICAL = [
    "glioma tumor", "benign_tumor", "tumour epithelium", "covid lungs", "cyst kidney", "melanoma",
    "healthy knee", "dyed resection margins", "lung squamous cell carcinoma", "drusen", "cataract",
]  # fmt: skip


def about(n):
    words = ["a", "the", "my", "one", "some", "no"][:n]
    return {name: [f"{word} {name}" for word in words] for name in NAMES}


def test_the_first_sentences_are_read_and_pull_the_context(tiny_clip):
    method = build("BiomedCoOp", tiny_clip, SENTENCES=about(6), N_PROMPTS=4)
    assert method.takes == ("sentences",)
    assert build("BiomedCoOp", tiny_clip, SENTENCES="medical").takes == ("llm",)
    assert method.teacher.h_each.shape == (4, len(NAMES), 64)
    assert method.teacher.sentences.rows[3] == tuple(f"one {name}" for name in NAMES)
    method.train()
    weak, strong = (
        build("BiomedCoOp", tiny_clip, SENTENCES=about(4), N_PROMPTS=4, SCCM_LAMBDA=w).train()
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
    method = build("BiomedCoOp", tiny_clip, SENTENCES=about(2), N_PROMPTS=2)
    assert method.find_kept(torch.tensor(scores, dtype=torch.float32)).tolist() == [
        *map(bool, kept)
    ]


def test_repeated_sentences_give_a_finite_loss(tiny_clip):
    same = {name: [f"a {name}"] * 5 for name in NAMES}
    method = build("BiomedCoOp", tiny_clip, SENTENCES=same, N_PROMPTS=5).train()
    terms = method.losses(IMAGES, LABELS)
    terms["loss"].backward()
    assert terms["loss"].isfinite() and method.prompt_learner.ctx.grad.isfinite().all()


def test_templates_stand_for_sentences_and_a_note_says_so(tiny_clip, capsys):
    method = build("BiomedCoOp", tiny_clip, N_PROMPTS=3)
    assert method.takes == () and capsys.readouterr().out == ""
    rows = method.teacher.sentences.rows
    first = "a centered satellite photo of"  # of EuroSAT
    assert rows[0] == tuple(f"{first} {name}." for name in NAMES)
    assert rows[1] == tuple(CLIP[0].replace("{}", name) for name in NAMES)
    assert f"takes 3 templates, such as '{first} {{}}.'" in capsys.readouterr().out


def test_an_evaluation_needs_no_sentences(tiny_clip):
    method = build("BiomedCoOp", tiny_clip, SENTENCES="not_there.json").eval()
    assert method(IMAGES).shape == (4, len(NAMES))
    with pytest.raises(UserError, match="not_there.json' cannot be read"):
        method.train().losses(IMAGES, LABELS)


def test_the_context_starts_at_random_with_another_number_of_tokens(tiny_clip):
    assert build("BiomedCoOp", tiny_clip).start == "a photo of a"
    other = build("BiomedCoOp", tiny_clip, N_CTX=3, CSC=True)
    assert other.start == "" and other.prompt_learner.ctx.shape[:2] == (len(NAMES), 3)


def test_the_embedded_sentences_are_about_the_medical_classes():
    assert len(GROUPS["medical"]) == len(MEDICAL)
    for name, own in zip(MEDICAL, sentences_of("medical", MEDICAL), strict=True):
        assert len(own) == 50 and all(text and "{" not in text for text in own), name
