"""NLPrompt: every number of its golden file, its plans of epochs."""

import json

import pytest
import tiny
import torch
from golden_files import build, near, read
from paths import GOLDEN

from trainers.prompting.method import Batch

FILE = read(GOLDEN / "nlprompt.safetensors")
TRAIN = FILE.part("train/")


@pytest.fixture
def of(tiny_clip, tmp_path):
    """Return the method of the golden file, with the keys that are given."""
    return lambda **keys: build(FILE, tiny_clip, tmp_path, **keys).eval()


def split(method, budget=1.0):
    return method.split(TRAIN["logits"], TRAIN["label"], budget)


def close(found, expected, limit):
    """Say if two plans differ by less than a share of the largest entry."""
    return bool((found - expected).abs().max() < limit * expected.max())


def test_the_split(of):
    tensors = FILE.tensors
    with torch.no_grad():
        assert near(of()(TRAIN["image"]), TRAIN["logits"])
    for form in ("log", "released"):
        method = of(FORM=form)
        assert near(method.cost(TRAIN["logits"]), tensors["cost"], 1e-6)
        found, half = split(method), split(method, budget=0.5)
        assert close(found.plan, tensors["plan"], 1e-5)
        for name in ("pseudo_label", "clean"):
            assert torch.equal(getattr(found, name), tensors[name])
        for name in ("selected", "clean"):
            assert torch.equal(getattr(half, name), tensors[f"budget_half/{name}"])
        # 24 times 1/24 is less than 1
        assert torch.equal(found.selected, tensors["selected"] | (form == "log"))


@pytest.mark.parametrize("N", [10, 13, 24, 160])  # one by one they all add up to less than 1
def test_the_share_of_the_released_form_is_the_sum_of_pytorch(of, N):
    logits = torch.randn(N, FILE.tensors["cost"].shape[1])
    share = (torch.ones(N, dtype=torch.float64) / N).sum().item()
    found = of(FORM="released").split(logits, torch.zeros(N, dtype=torch.long))
    assert int(found.selected.sum()) == int(N * min(share, 1))


def test_plans_with_little_regularisation(of):
    expected = FILE.part("reg_0.001/")
    found = split(of(REG_E=0.001, FORM="released"))
    assert torch.equal(found.plan, expected["plan"]) and not found.plan.any()
    assert torch.equal(found.clean, expected["clean"])
    found = split(of(REG_E=0.001))  # 1000 rounds do not converge
    assert close(found.plan, expected["plan_log_domain"], 1e-2)
    assert torch.equal(found.clean, expected["clean_log_domain"])


def test_the_loss_of_noisy_images(of):
    method, tensors = of(), FILE.tensors
    method.clean = torch.tensor([True, False, False, False, False, False])
    batch = method.batch(tensors["image"], tensors["label"], torch.arange(1, 6))
    terms = method.train().terms(method.output(batch.images), batch)
    assert near(terms["loss"], tensors["mae/loss"], 1e-5)
    method.backward(terms)
    expected = tensors["mae/grad/prompt_learner.ctx"]
    error = (method.prompt_learner.ctx.grad.reshape(expected.shape) - expected).norm()
    assert error < 1e-3 * expected.norm()
    one = method.batch(tensors["image"][:1], tensors["label"][:1], torch.tensor([0]))
    clean = method.losses(one.images, one.labels)["loss"]
    assert near(method.terms(method.output(one.images), one)["loss"], clean, 1e-6)


def test_an_epoch(of):
    """Steps on full batches, as the public code does them, in the order of the file."""
    method, order = of().train(), FILE.tensors["epoch/order"]
    method.clean = FILE.tensors["clean"]
    optimizer = torch.optim.SGD(
        method.learned().values(), lr=0.002, momentum=0.9, weight_decay=5e-4
    )
    for clean, after in ((True, "after_clean"), (False, "prompt_learner.ctx")):
        rows = order[method.clean[order] == clean]
        for step in rows[: len(rows) // 4 * 4].split(4):
            batch = method.batch(TRAIN["image"][step], TRAIN["label"][step], step)
            optimizer.zero_grad()
            method.backward(method.terms(method.output(batch.images), batch))
            optimizer.step()
        expected = FILE.tensors[f"epoch/{after}"]
        assert near(method.prompt_learner.ctx.reshape(expected.shape), expected, 1e-6)
    with torch.no_grad():
        assert near(method.eval()(FILE.tensors["image"]), FILE.tensors["epoch/logits_eval"])


def batches():
    rows = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    return [Batch([TRAIN["image"][step]], TRAIN["label"][step], step) for step in rows.split(7)]


@torch.no_grad()
def test_clean_steps_come_first(of, capsys):
    method, clean = of(), FILE.tensors["clean"]
    plan = method.plan_epoch(1, 2, batches())
    assert [len(step) for step in plan] == [7, 4, 7, 6]  # 11 clean images, 13 others
    assert clean[torch.cat(plan[:2])].all() and not clean[torch.cat(plan[2:])].any()
    assert torch.cat(plan).sort().values.tolist() == [*range(24)]
    assert torch.equal(method.clean, clean)
    assert capsys.readouterr().out == "Epoch 1: 11 of 24 labels are taken as clean\n"
    again = method.plan_epoch(1, 2, batches())
    assert any(not torch.equal(a, b) for a, b in zip(plan, again, strict=True))
    rising = of(CURRICLUM_EPOCH=2, BEGIN_RATE=0.5)
    rising.plan_epoch(1, 2, batches())
    assert torch.equal(rising.clean, FILE.tensors["budget_half/clean"])
    rising.plan_epoch(3, 3, batches())
    assert torch.equal(rising.clean, clean)
    assert of(USE_OT=False).plan_epoch(1, 2, iter(())) is None


def test_the_budget_rises(of):
    linear, exp = (of(CURRICLUM_EPOCH=4, CURRICLUM_MODE=mode) for mode in ("linear", "exp"))
    shares = [[method.budget(epoch) for epoch in range(1, 7)] for method in (linear, exp)]
    assert shares[0] == pytest.approx([0.3, 0.475, 0.65, 0.825, 1, 1])
    assert shares[1][:3] == pytest.approx([0.3, 0.7424844, 0.9052653]) and shares[1][4:] == [1, 1]


def test_other_costs(of):
    p = TRAIN["logits"].softmax(1)
    assert torch.equal(of(PMODE="out").cost(TRAIN["logits"]), -p)
    assert torch.equal(of(PMODE="softmax").cost(TRAIN["logits"]), -p.softmax(1))


def test_a_run(tmp_path, capsys):
    """With USE_OT False it is CoOp, bit for bit; each epoch sees all images once."""
    context = {}
    for trainer, pairs in (("CoOp", []), ("NLPrompt", ["DATASET.USE_OT", "False"])):
        folder = tmp_path / trainer
        assert tiny.run(tmp_path, trainer, folder, extra=pairs) == 0
        path = folder / "prompt_learner" / "model.pth.tar-2"
        context[trainer] = torch.load(path, weights_only=True)["state_dict"]["ctx"]
    assert near(context["NLPrompt"], context["CoOp"], 1e-5)
    assert tiny.run(tmp_path, "NLPrompt", tmp_path / "ot", extra=["DATASET.REG_E", "0.001"]) == 0
    said, written = capsys.readouterr().out, (tmp_path / "ot" / "results.json").read_text()
    assert "Epoch 2: " in said and 8 <= json.loads(written)["train_steps"] <= 10
