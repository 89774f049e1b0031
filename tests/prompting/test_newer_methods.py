"""Methods with a regulariser of a frozen CLIP, beyond test_golden.py."""

import pytest
import torch
from tiny import run

from trainers.prompting import Teacher, UserError, build_method, register
from trainers.prompting.encoders import templates
from trainers.prompting.methods.promptsrc import GaussianMean, PromptSRC
from trainers.prompting.trainer.trainer import PromptTrainer

NAMES = ["forest", "sea or lake", "annual crop land"]
OTHERS = ["highway or road", "boeing 737-800"]
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0])
SMALL = {
    "PromptSRC": {"PROMPT_DEPTH_VISION": 2, "PROMPT_DEPTH_TEXT": 2},
    "TCP": {"INSERT_BLOCK": 2},
    "CoPrompt": {"PROMPT_DEPTH": 2},
    "ALIGN": {"DEPTH": 2},
}


def small(name, clip_model, names=NAMES, dataset="EuroSAT", **node):
    return build_method(name, SMALL.get(name, {}) | node, clip_model, names, dataset)


def pairs(name: str) -> list[str]:
    """Return the small settings of a method as KEY VALUE pairs of a command line."""
    node = {"CoPrompt": "CoPrompt", "PromptSRC": "PROMPTSRC", "TCP": "COOP"}.get(name, "")
    return [w for k, v in SMALL.get(name, {}).items() for w in (f"TRAINER.{node}.{k}", str(v))]


@pytest.mark.parametrize(
    "dataset, words, fixed",
    [
        ("EuroSAT", "a centered satellite photo of", ""),
        ("OxfordPets", "a type of pet, a photo of a", "a"),  # the comma is a separate token
        ("Food101", "a type of food, a photo of", "of"),
        ("Caltech101", "a photo of a", ""),
    ],
)
def test_prograds_context_ends_with_the_words_of_the_data_set(tiny_clip, dataset, words, fixed):
    method = small("ProGrad", tiny_clip, dataset=dataset, CTX_INIT=True, N_CTX=10)
    tokenizer = method.text_encoder.tokenizer
    tokens = tokenizer.encode(words)
    count = len(words.split())
    ctx = method.prompt_learner.ctx.detach()
    assert not ctx[: 10 - count].any()
    assert torch.equal(ctx[10 - count :], tiny_clip.token_embedding.weight[tokens[:count]])
    sentence = method.text_encoder.sentences[0][0]
    assert list(sentence.slots) == list(range(1, 11))
    rest = tokenizer.decode(sentence.ids[11 : sentence.eos]).strip()
    assert rest.split() == f"{fixed} forest .".split()
    with pytest.raises(UserError, match=f"N_CTX is 3 but .* which is {count} words"):
        small("ProGrad", tiny_clip, dataset=dataset, CTX_INIT=True, N_CTX=3)


@pytest.mark.parametrize("name", ["KgCoOp", "ProGrad", "TCP"])
def test_ctx_init_is_a_switch(tiny_clip, name):
    random = small(name, tiny_clip, CTX_INIT=False, N_CTX=6)
    assert random.templates()[0].split()[:6] == ["X"] * 6
    assert 0.01 < random.prompt_learner.ctx.std() < 0.03
    words = small(name, tiny_clip, CTX_INIT="whatever it says", N_CTX=6)
    assert "whatever" not in words.templates()[0] and "photo of" in words.templates()[0]
    assert words.text_size.b == (6 if name == "ProGrad" else 4)


def test_the_sentences_of_tcp_differ_by_data_set(tiny_clip):
    ends = {"StanfordCars": "X X X X {}, a type of car", "UCF101": "X X X X person doing {}.",
            "DescribableTextures": "X X X X {} texture.", "ImageNet": "X X X X {}."}  # fmt: skip
    for dataset, template in ends.items():
        assert small("TCP", tiny_clip, dataset=dataset).templates() == [template]
    assert (
        templates.template_of(templates.KGCOOP, "FGVCAircraft")
        == "a photo of a {}, a type of aircraft."
    )
    assert (
        templates.template_of(templates.PROGRAD, "FGVCAircraft")
        == "a type of aircraft, a photo of a {}."
    )
    assert templates.template_of(templates.TCP, "FGVCAircraft") == "a photo of an aircraft {}."


# ------------------------------------------------------------------ the frozen teacher


def test_the_teacher_has_the_test_classes(tiny_clip):
    """TCP's tokens come from the text features of the test classes (base-to-new)."""
    trained = small("TCP", tiny_clip)
    new = small("TCP", tiny_clip, OTHERS)
    new.load_public_state_dict(trained.public_state_dict())
    tokens = new.tokens()
    assert tokens.shape == (2, 4, 128)
    h0 = Teacher(tiny_clip, OTHERS, [templates.template_of(templates.TCP, "EuroSAT")]).h
    assert torch.equal(tokens, trained.prompt_learner.meta_net(h0).reshape(2, 4, 128))


# ------------------------------------------------------------------ ProGrad's projection


def test_without_a_distillation_gradient_nothing_is_projected(tiny_clip):
    method = small("ProGrad", tiny_clip, N_CTX=4)
    (ctx,) = method.learned().values()
    terms = method.train().losses(IMAGES, LABELS)
    (plain,) = torch.autograd.grad(terms["ce"], ctx, retain_graph=True)
    method.backward(terms | {"kd": 0 * terms["kd"]})
    assert torch.equal(ctx.grad, plain) and ctx.grad.isfinite().all()


def test_an_overflow_of_the_gradient_is_kept(tiny_clip):
    """The gradient scaler can then skip the step, as for any method."""
    method = small("ProGrad", tiny_clip, N_CTX=4)
    terms = method.train().losses(IMAGES, LABELS)
    method.backward(terms | {"kd": float("inf") * terms["kd"]})
    assert not method.prompt_learner.ctx.grad.isfinite().all()


def test_the_projection_leaves_nothing_against_the_teacher(tiny_clip):
    method = small("ProGrad", tiny_clip, N_CTX=4)
    (ctx,) = method.learned().values()
    terms = method.train().losses(IMAGES, LABELS)
    (kd,) = torch.autograd.grad(terms["kd"], ctx, retain_graph=True)
    method.backward(terms | {"ce": -terms["kd"] + 0.1 * terms["ce"]})
    assert abs((ctx.grad * kd).sum()) < 1e-5 * ctx.grad.norm() * kd.norm() + 1e-8


# ------------------------------------------------------------------ the mean over the epochs


def test_weights_of_a_mean_far_away_are_numbers():
    mean = GaussianMean({}, mean=400, std=1).weights(3)
    assert sum(mean) == pytest.approx(1) and mean[2] > 0.99


def test_a_second_training_has_a_mean_of_its_own():
    parameter = torch.nn.Parameter(torch.zeros(2))
    mean = GaussianMean({"ctx": parameter}, mean=2, std=1)
    for start in (0.0, 10.0):
        for epoch in (1, 2, 3):
            parameter.data.fill_(start + epoch)
            mean.add({"ctx": parameter}, epoch, last=3)
        assert torch.allclose(parameter, torch.tensor(start + 2))


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["PromptSRC", "CoPrompt", "HiCroPL"])
def test_a_run_resumes_bit_for_bit(tmp_path, monkeypatch, trainer):
    """PromptSRC resumes its sum, CoPrompt its draws of sentences, HiCroPL its moved prompts."""

    def train(folder):
        return run(tmp_path, trainer, tmp_path / folder, 3, extra=pairs(trainer))

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


# ------------------------------------------------------------------ mistakes on the command line


def test_the_mean_of_a_subclass_is_named_by_its_own_node(tiny_clip):
    register(type("Mine", (PromptSRC,), {"node": "MINE"}))
    with pytest.raises(UserError, match=r"epoch 20: lower TRAINER\.MINE\.GPA_MEAN, or train"):
        build_method(
            "Mine", SMALL["PromptSRC"] | {"GPA_MEAN": 20, "MAX_EPOCH": 19}, tiny_clip, NAMES
        )


def test_the_published_test_scripts_leave_out_what_only_training_reads(tmp_path, capsys):
    """KgCoOp's scripts set W for training, but not for tests."""
    out = tmp_path / "out"
    assert run(tmp_path, "KgCoOp", out, 1, extra=["TRAINER.COOP.W", "8.0"]) == 0
    flags = ("--eval-only", "--model-dir", str(out), "--load-epoch", "1")
    assert run(tmp_path, "KgCoOp", tmp_path / "test", 1, *flags) == 0
    capsys.readouterr()
    assert (
        run(tmp_path, "KgCoOp", tmp_path / "no", 1, *flags, extra=["TRAINER.COOP.N_CTX", "3"]) == 2
    )
    assert "TRAINER.COOP.N_CTX" in capsys.readouterr().err


# ------------------------------------------------------------------ TwoSFS, TaskRes


def test_the_stage_of_two_sfs_follows_from_its_public_tensors(tiny_clip):
    trained, other = (small("TwoSFS", tiny_clip).eval() for _ in range(2))
    other.load_public_state_dict(trained.public_state_dict())
    assert not other.second and int(other.stage) == 1
    trained.begin_stage(1)
    trained.classifier.data.normal_()
    other.load_public_state_dict(trained.public_state_dict())
    assert torch.equal(other(IMAGES), trained(IMAGES)) and int(other.stage) == 2


def test_residuals_that_start_at_zero_can_be_evaluated(tmp_path):
    assert run(tmp_path, "TaskRes", None, 1, "--eval-only") == 0


@pytest.mark.parametrize("words", [False, [], ""])
def test_no_words_are_no_words(tiny_clip, words):
    method = small("VPT", tiny_clip, PROMPT_DEPTH_VISION=2, CTX_INIT=words)
    assert method.fixed_template() == "{}."
