"""KgCoOp, ProGrad, PromptSRC, TCP and CoPrompt: what they share, and what is told of mistakes."""

import json

import pytest
import torch
from paths import GOLDEN
from test_golden import read
from tiny import run

from trainers.prompting import Teacher, UserError, build_method
from trainers.prompting.averaging import GaussianMean
from trainers.prompting.encoders.templates import KGCOOP, PROGRAD, TCP, template_of
from trainers.prompting.regularizers import PUBLISHED, REGULARIZERS
from trainers.prompting.teacher import read_sentences
from trainers.prompting.trainer import PromptTrainer

NAMES = ["forest", "sea or lake", "annual crop land"]
OTHERS = ["highway or road", "boeing 737-800"]
IMAGES, LABELS = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])


def build(name, clip_model, names=NAMES, dataset="EuroSAT", **node):
    small = {
        "PromptSRC": {"PROMPT_DEPTH_VISION": 2, "PROMPT_DEPTH_TEXT": 2},
        "TCP": {"INSERT_BLOCK": 2},
        "CoPrompt": {"PROMPT_DEPTH": 2},
    }
    return build_method(name, small.get(name, {}) | node, clip_model, names, dataset)


def step(method, *views):
    terms = method.train().losses(list(views) or IMAGES, LABELS)
    method.backward(terms)
    return terms, {n: p.grad for n, p in method.model.public_parameters().items()}


# ------------------------------------------------------------------ where a context starts


@pytest.mark.parametrize(
    "dataset, words, fixed",
    [
        ("EuroSAT", "a centered satellite photo of", ""),
        ("OxfordPets", "a type of pet, a photo of a", "a"),  # the comma is a token of its own
        ("Food101", "a type of food, a photo of", "of"),
        ("Caltech101", "a photo of a", ""),
    ],
)
def test_prograds_context_ends_with_the_words_of_the_data_set(tiny_clip, dataset, words, fixed):
    method = build("ProGrad", tiny_clip, dataset=dataset, CTX_INIT=True, N_CTX=10)
    tokenizer = method.model.text_encoder.tokenizer
    tokens = tokenizer.encode(words)
    count = len(words.split())
    ctx = method.model.prompt_learner.ctx.detach()
    assert not ctx[: 10 - count].any()
    assert torch.equal(ctx[10 - count :], tiny_clip.token_embedding.weight[tokens[:count]])
    sentence = method.model.text_encoder.sentences[0][0]
    assert list(sentence.slots) == list(range(1, 11))
    rest = tokenizer.decode(sentence.ids[11 : sentence.eos]).strip()
    assert rest.split() == f"{fixed} forest .".split()
    with pytest.raises(UserError, match=f"N_CTX is 3 but .* which is {count} words"):
        build("ProGrad", tiny_clip, dataset=dataset, CTX_INIT=True, N_CTX=3)


@pytest.mark.parametrize("name", ["KgCoOp", "ProGrad", "TCP"])
def test_ctx_init_is_a_switch(tiny_clip, name):
    random = build(name, tiny_clip, CTX_INIT=False, N_CTX=6)
    assert random.model.spec.templates[0].split()[:6] == ["X"] * 6
    assert 0.01 < random.model.prompt_learner.ctx.std() < 0.03
    words = build(name, tiny_clip, CTX_INIT="whatever it says", N_CTX=6).model.spec
    assert "whatever" not in words.templates[0] and "photo of" in words.templates[0]
    assert words.text_length == (6 if name == "ProGrad" else 4)


def test_the_sentences_of_tcp_differ_by_data_set(tiny_clip):
    ends = {"StanfordCars": "X X X X {}, a type of car", "UCF101": "X X X X person doing {}.",
            "DescribableTextures": "X X X X {} texture.", "ImageNet": "X X X X {}."}  # fmt: skip
    for dataset, template in ends.items():
        assert build("TCP", tiny_clip, dataset=dataset).model.spec.templates == (template,)
    assert template_of(KGCOOP, "FGVCAircraft") == "a photo of a {}, a type of aircraft."
    assert template_of(PROGRAD, "FGVCAircraft") == "a type of aircraft, a photo of a {}."
    assert template_of(TCP, "FGVCAircraft") == "a photo of an aircraft {}."


# ------------------------------------------------------------------ the frozen teacher


def test_a_teacher_of_several_sentences(tiny_clip):
    """Features are averaged before they are normalised; `h_each` keeps them apart."""
    templates = ["a photo of a {}.", "a photo of many {}.", "a sculpture of a {}."]
    teacher = Teacher(tiny_clip, NAMES, templates)
    alone = [Teacher(tiny_clip, NAMES, [template]).h for template in templates]
    assert torch.allclose(teacher.h_each, torch.stack(alone), atol=1e-6)
    given = Teacher(tiny_clip, NAMES, [[t.format(n) for n in NAMES] for t in templates])
    assert torch.equal(given.h, teacher.h)


def test_the_teacher_is_that_of_the_classes(tiny_clip):
    """Base to new: TCP's tokens come from the text features of the classes that are tested."""
    trained = build("TCP", tiny_clip)
    new = build("TCP", tiny_clip, OTHERS)
    new.model.load_public_state_dict(trained.model.public_state_dict())
    tokens = new.model.parts.tokens()
    assert tokens.shape == (2, 4, 128)
    h0 = Teacher(tiny_clip, OTHERS, [template_of(TCP, "EuroSAT")]).h
    assert torch.equal(tokens, trained.model.parts.meta_net(h0).reshape(2, 4, 128))


def test_kept_text_features_follow_tcps_network(tiny_clip):
    method = build("TCP", tiny_clip).eval()
    before = method.model(IMAGES)
    with torch.no_grad():
        method.model.parts.meta_net.linear2.bias.normal_()
    assert not torch.allclose(method.model(IMAGES), before, atol=1e-2)


# ------------------------------------------------------------------ ProGrad's projection


def test_without_a_distillation_gradient_nothing_is_projected(tiny_clip):
    method = build("ProGrad", tiny_clip, N_CTX=4)
    (ctx,) = method.model.trained().parameters()
    terms = method.train().losses(IMAGES, LABELS)
    (plain,) = torch.autograd.grad(terms["ce"], ctx, retain_graph=True)
    method.backward(terms | {"kd": 0 * terms["kd"]})
    assert torch.equal(ctx.grad, plain) and ctx.grad.isfinite().all()


def test_a_gradient_that_overflows_is_seen(tiny_clip):
    """The scaler of half precision then skips the step, as with any method."""
    method = build("ProGrad", tiny_clip, N_CTX=4)
    terms = method.train().losses(IMAGES, LABELS)
    method.backward(terms | {"kd": float("inf") * terms["kd"]})
    assert not method.model.prompt_learner.ctx.grad.isfinite().all()


def test_the_projection_leaves_nothing_against_the_teacher(tiny_clip):
    method = build("ProGrad", tiny_clip, N_CTX=4)
    (ctx,) = method.model.trained().parameters()
    terms = method.train().losses(IMAGES, LABELS)
    (kd,) = torch.autograd.grad(terms["kd"], ctx, retain_graph=True)
    method.backward(terms | {"ce": -terms["kd"] + 0.1 * terms["ce"]})
    assert abs((ctx.grad * kd).sum()) < 1e-5 * ctx.grad.norm() * kd.norm() + 1e-8


# ------------------------------------------------------------------ the mean over the epochs


def test_weights_of_a_mean_far_away_are_numbers():
    mean = GaussianMean({}, mean=400, std=1).weights(3)
    assert sum(mean) == pytest.approx(1) and mean[2] > 0.99


@pytest.mark.parametrize("trainer", ["PromptSRC", "CoPrompt"])
def test_a_run_goes_on_bit_by_bit(tmp_path, monkeypatch, trainer):
    """PromptSRC's sum, CoPrompt's draws of sentences."""
    depth = {"PromptSRC": "PROMPTSRC.PROMPT_DEPTH_{}", "CoPrompt": "CoPrompt.PROMPT_DEPTH"}
    keys = {depth[trainer].format(side) for side in ("TEXT", "VISION")}
    pairs = [word for key in sorted(keys) for word in (f"TRAINER.{key}", "2")]

    def train(folder):
        return run(tmp_path, trainer, tmp_path / folder, 3, extra=pairs)

    def file(folder):
        (found,) = (tmp_path / folder).glob("*/model.pth.tar-3")
        return torch.load(found, weights_only=True)

    class Killed(BaseException):
        pass

    after_epoch = PromptTrainer.after_epoch

    def killed_after_two(self):
        after_epoch(self)
        if self.epoch == 1:
            raise Killed

    assert train("whole") == 0
    monkeypatch.setattr(PromptTrainer, "after_epoch", killed_after_two)
    with pytest.raises(Killed):
        train("parts")
    monkeypatch.undo()
    assert train("parts") == 0
    whole, parts = file("whole"), file("parts")
    for part in ("state_dict", "method"):
        assert whole[part].keys() == parts[part].keys()
        assert all(torch.equal(value, parts[part][name]) for name, value in whole[part].items())
    assert bool(whole["method"]) == (trainer == "PromptSRC")


# ------------------------------------------------------------------ ALIGN with regularisers


def test_align_takes_the_regularisers_of_promptsrc(tiny_clip):
    """At the point where ALIGN is IVLP its terms are those of PromptSRC."""
    golden = read(GOLDEN / "promptsrc.safetensors")
    node = {"M": 1, "N": 1, "BETA": 0, "COUPLING": "independent", "N_CTX": 4, "DEPTH": 3}
    names = ["scl_text", "scl_image", "scl_logits"]
    method = build_method(
        "ALIGN",
        node | {"REGULARIZERS": names},
        tiny_clip,
        golden.meta["classnames"],
        golden.meta["dataset"],
    )
    with torch.no_grad():
        own = method.model.public_parameters()
        for name, value in golden.params.items():
            own[name].copy_(value.reshape(own[name].shape))
    terms = method.train().losses(golden.tensors["image"], golden.tensors["label"])
    assert set(terms) == {"loss", "ce", *names}
    for name, value in golden.part("loss/").items():
        assert terms[name].item() == pytest.approx(value.item(), abs=2e-4)


def test_align_takes_kgcoops_regulariser_with_any_number_of_prompts(tiny_clip):
    node = {"M": 2, "N": 3, "DEPTH": 2, "REGULARIZERS": ["kg", "scl_image"]}
    method = build("ALIGN", tiny_clip, **node, REGULARIZER_WEIGHTS=[2.0, 0.5])
    terms, grads = step(method)
    output = method.model.output(IMAGES)
    h0 = Teacher(tiny_clip, NAMES, [template_of(KGCOOP, "EuroSAT")]).h
    z0 = Teacher(tiny_clip, NAMES, []).z(IMAGES)
    kg = 2 * (1 - (output.text.h * h0).sum(-1).mean())
    assert terms["kg"].item() == pytest.approx(kg.item(), abs=1e-5)
    image = 0.5 * (output.image.z - z0[:, None]).abs().mean()
    assert terms["scl_image"].item() == pytest.approx(image.item(), abs=1e-5)
    assert all(grad.isfinite().all() and grad.any() for grad in grads.values())
    plain = build("ALIGN", tiny_clip, M=2, N=3, DEPTH=2)
    assert set(plain.train().losses(IMAGES, LABELS)) == {"loss"}
    assert set(PUBLISHED) == set(REGULARIZERS)


@pytest.mark.parametrize(
    "node, part",
    [
        ({"REGULARIZERS": ["kq"]}, "no regulariser 'kq': did you mean 'kg'"),
        ({"REGULARIZERS": ["kg", "kg"]}, "names a term twice: kg, kg"),
        ({"REGULARIZERS": ["kg"], "REGULARIZER_WEIGHTS": [1, 2]}, "has 2 numbers for 1"),
        ({"REGULARIZER_WEIGHTS": ["one"]}, "must be a list of numbers"),
    ],
)
def test_regularisers_that_cannot_be(tiny_clip, node, part):
    with pytest.raises(UserError, match=part):
        build("ALIGN", tiny_clip, DEPTH=2, **node)


# ------------------------------------------------------------------ CoPrompt's sentences and views


def test_coprompt_draws_one_sentence_for_all_classes_in_each_step(tiny_clip):
    about = {name: [f"a photo of a {name}.", f"many {name}.", f"a bad {name}."] for name in NAMES}
    method = build("CoPrompt", tiny_clip, SENTENCES=about)
    second = torch.randn(4, 3, 32, 32)

    def losses(count):
        torch.manual_seed(3)
        found = [method.train().losses([IMAGES, second], LABELS) for _ in range(count)]
        return [terms["kd_text"].item() for terms in found]

    drawn = losses(12)
    h = method.model.output(IMAGES).text.h[0].detach()
    possible = [8 * (1 - (h * h0).sum(-1).mean()).item() for h0 in method.teacher.h_each]
    nearest = [min(range(3), key=lambda i: abs(possible[i] - value)) for value in drawn]
    assert set(nearest) == {0, 1, 2}
    assert all(abs(possible[i] - v) < 1e-4 for i, v in zip(nearest, drawn, strict=True))
    assert losses(12) == drawn


def test_coprompt_compares_with_the_second_view(tiny_clip):
    method = build("CoPrompt", tiny_clip, SENTENCES={name: [name] for name in NAMES}, W=1.0)
    other = torch.randn(4, 3, 32, 32)
    first = method.train().losses([IMAGES, IMAGES], LABELS)
    second = method.losses([IMAGES, other], LABELS)
    assert first["ce"] == second["ce"] and first["kd_image"] != second["kd_image"]
    z, z0 = method.model.output(IMAGES).image.z[:, 0], method.teacher.z(other)
    assert second["kd_image"].item() == pytest.approx(
        (1 - (z * z0).sum(-1).mean()).item(), abs=1e-5
    )
    method.settings.DISTILL = "mse"
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
    "no file": ("nowhere.json", "'nowhere.json' is no JSON object: .*No such file"),
    "no JSON": ("{", "is no JSON object"),
    "no object": ("[1]", "is no JSON object"),
    "a class": ({"forest": ["green"]}, "no list of sentences for the class 'sea'"),
    "empty": ({"forest": [], "sea": ["blue"]}, "no list of sentences for the class 'forest'"),
    "no list": ({"forest": "green", "sea": "b"}, "no list of sentences for the class 'forest'"),
    "lengths": (
        {"forest": ["green", "dark"], "sea": ["blue"]},
        "has 2 sentences for 'forest' but 1 for 'sea': give all classes equally many",
    ),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_sentences_that_do_not_do(tmp_path, case):
    content, part = SENTENCES[case]
    source = content
    if content and source != "nowhere.json":
        source = str(tmp_path / "about.json")
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "about.json").write_text(text)
    with pytest.raises(UserError, match=part) as error:
        read_sentences(source, ["forest", "sea"])
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------ mistakes on the command line

MISTAKES = {
    "epochs": ("PromptSRC", ["TRAINER.PROMPTSRC.GPA_MEAN", "15"],
               "OPTIM.MAX_EPOCH is 1 but the mean over the epochs is centred on epoch 15"),
    "spread": ("PromptSRC", ["TRAINER.PROMPTSRC.GPA_STD", "0"], "GPA_STD is 0"),
    "block": ("TCP", ["TRAINER.COOP.INSERT_BLOCK", "8"],
              "INSERT_BLOCK is 8 but the text encoder of this backbone has blocks 0 to 3"),
    "class-specific": ("TCP", ["TRAINER.COOP.CSC", "True"], "set CSC False"),
    "loss": ("ProGrad", ["LOSS.NAME", "gm"], "LOSS.NAME is 'gm'"),
    "distance": ("CoPrompt", ["TRAINER.DISTILL", "l1"], "TRAINER.DISTILL is 'l1'"),
    "sentences": ("CoPrompt", ["TRAINER.CoPrompt.SENTENCES", "no.json"], "'no.json' is no JSON"),
    "one view": ("CoPrompt", ["DATALOADER.K_TRANSFORMS", "1"], "set DATALOADER.K_TRANSFORMS 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_sentence(tmp_path, capsys, case):
    trainer, pairs, part = MISTAKES[case]
    shallow = {"PromptSRC": "PROMPTSRC.PROMPT_DEPTH_{}", "CoPrompt": "CoPrompt.PROMPT_DEPTH"}
    if trainer in shallow:
        keys = {shallow[trainer].format(side) for side in ("TEXT", "VISION")}
        pairs = [*(word for key in keys for word in (f"TRAINER.{key}", "2")), *pairs]
    assert run(tmp_path, trainer, None, 1, extra=pairs) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ") and part in line


def test_contexts_of_each_class_do_not_fit_others(tiny_clip):
    trained = build("KgCoOp", tiny_clip, CSC=True, N_CTX=2)
    assert trained.model.prompt_learner.ctx.shape == (3, 2, 128)
    other = build("KgCoOp", tiny_clip, OTHERS, CSC=True, N_CTX=2)
    with pytest.raises(UserError, match=r"shape \(3, 2, 128\) but .* \(of classes with CSC\)"):
        other.model.load_public_state_dict(trained.model.public_state_dict())


def test_the_published_test_scripts_leave_out_what_only_training_reads(tmp_path, capsys):
    """KgCoOp's says W when it trains and not when it tests."""
    out = tmp_path / "out"
    assert run(tmp_path, "KgCoOp", out, 1, extra=["TRAINER.COOP.W", "8.0"]) == 0
    flags = ("--eval-only", "--model-dir", str(out), "--load-epoch", "1")
    assert run(tmp_path, "KgCoOp", tmp_path / "test", 1, *flags) == 0
    capsys.readouterr()
    assert (
        run(tmp_path, "KgCoOp", tmp_path / "no", 1, *flags, extra=["TRAINER.COOP.N_CTX", "3"]) == 2
    )
    assert "TRAINER.COOP.N_CTX" in capsys.readouterr().err
