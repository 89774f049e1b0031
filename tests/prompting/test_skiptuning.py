"""SkipTuning: the numbers of its golden file, its two ways through the text encoder, mistakes."""

from copy import deepcopy

import pytest
import torch
from golden_files import Golden, near, read
from models import images, saved
from paths import GOLDEN, ROOT

import train
from trainers.prompting import UserError, build_method
from trainers.prompting.running.precision import Precision
from trainers.prompting.step import training_step
from trainers.prompting.trainer.schedule import build_optim

NAMES = ["forest", "sea or lake", "annual crop land", "road"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def golden() -> Golden:
    return read(GOLDEN / "skiptuning_start2.safetensors")


@pytest.fixture
def method(golden, tiny_clip):
    return built(golden, tiny_clip, golden.meta["classnames"])


def built(golden, clip_model, names, **node):
    """Return the method with the mask and the parameters of the file, CLIP's plus products."""
    node = golden.meta["config"] | node
    method = build_method("SkipTuning", node, clip_model, names, "EuroSAT")
    own, of_v = method.public_parameters(), golden.part("param_v/")
    whole = {name: own[name] + u @ of_v[name] for name, u in golden.part("param_u/").items()}
    method.load_public_state_dict(golden.part("param/") | whole)
    method.ranks = golden.tensors["reserve_mask"].nonzero()[:, 0]
    return method


def losses(method, golden) -> dict:
    return method.losses(golden.tensors["image"], golden.tensors["label"])


def test_a_step_is_that_of_the_public_code(golden, method):
    tensors, own = golden.tensors, method.train().public_parameters()
    assert near(method.teacher.h, tensors["prototypes"])
    batch = method.batch(tensors["image"], tensors["label"])
    output = method.output(batch.images)
    kept = output.logits[0].isfinite().nonzero()[:, 0]
    assert torch.equal(kept, tensors["classes"])
    assert near(output.logits[:, kept], tensors["logits"])
    terms = method.terms(output, batch)
    assert near(terms["loss"], tensors["loss"])
    method.backward(terms)
    grads = golden.part("grad/") | golden.part("grad_rows/")
    assert own.keys() == grads.keys() and len(own) == 54
    for name, value in grads.items():
        rows = own[name].grad[:: 16 if f"grad_rows/{name}" in tensors else 1]
        assert (rows - value).norm() < 1e-3 * value.norm(), name
    for name, value in golden.part("grad_norm/").items():
        assert own[name].grad.norm() == pytest.approx(float(value), rel=1e-3)


def test_all_classes_and_evaluations(golden, method, tiny_clip):
    tensors = golden.tensors
    whole = built(golden, tiny_clip, golden.meta["classnames"], TOP_RATIO=1.0).train()
    whole.ranks = torch.arange(6)
    assert near(losses(whole, golden)["loss"], tensors["all/loss"])
    assert near(method.eval()(tensors["image"]), tensors["logits_eval"])
    names = golden.meta["new_classnames"]
    other = build_method("SkipTuning", golden.meta["config"], tiny_clip, names, "EuroSAT").eval()
    other.load_checkpoint(saved(method, golden.meta["classnames"]), names)
    assert near(other(tensors["image"]), tensors["logits_eval_new"])


def test_steps_with_two_rates(golden, method):
    """The config's groups: images first, then text."""
    expected = golden.part("steps/")
    file = ROOT / "configs/trainers/SkipTuning/base2new.yaml"
    words = ["--config-file", str(file), "--trainer", "SkipTuning", "DATASET.NAME", "EuroSAT"]
    words += ["DATASET.NUM_SHOTS"]
    few, cfg = (train.setup_cfg(train.parse_args([*words, shots])) for shots in "34")
    samplers = [each.DATALOADER.TRAIN_X.SAMPLER for each in (few, cfg)]
    assert samplers == ["RandomSampler", "RandomClassSampler"]
    optimizer, scheduler = build_optim(method.train().learned(), cfg.OPTIM, n=25)
    assert scheduler.get_last_lr() == [1e-6, 1e-6]
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([5e-6, 2e-5], rel=0.01)
    for group, rate in zip(optimizer.param_groups, reversed(expected["lr"]), strict=True):
        group["lr"] = float(rate)
    for wanted in expected["loss"]:
        optimizer.zero_grad()
        loss = losses(method, golden)["loss"]
        assert near(loss, wanted)
        loss.backward()
        optimizer.step()
    assert near(method.eval()(golden.tensors["image"]), expected["logits_eval"])


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("start", [0, 2, 3])
def test_some_classes_have_the_features_that_all_have(tiny_clip, start, packed):
    method = build_method("SkipTuning", {"START_LAYER": start}, tiny_clip, NAMES).train()
    encoder, kept = method.text_encoder, torch.tensor([0, 2])
    for p in encoder.parameters():
        if p.requires_grad:
            p.data += 0.02 * torch.randn_like(p)
    encoder.packs_on = ("cpu",) if packed else ()
    for _ in range(2):  # with what is kept, too
        found, wanted = encoder.some(kept).h, encoder().h[:, kept]
        assert near(found, wanted, 1e-5)
    weight = encoder.transformer.resblocks[3].attn.in_proj_weight
    direction = torch.randn_like(found)
    grads = [torch.autograd.grad((h * direction).sum(), weight)[0] for h in (found, wanted)]
    assert near(*grads, 1e-4 * grads[0].abs().max())


def test_ranks_are_drawn_by_their_probability(golden, tiny_clip, monkeypatch):
    def ranks(K, shift=None, **node):
        if shift is not None:
            u = golden.tensors["reserve_probability"] + shift
            monkeypatch.setattr(torch, "rand", lambda count: u[:count])
        method = build_method(
            "SkipTuning", {"START_LAYER": 2, **node}, tiny_clip, [f"a{i}" for i in range(K)]
        )
        monkeypatch.undo()
        return method.ranks.tolist()

    assert ranks(6, -1e-6) == [0, 1, 2, 3, 4, 5] and ranks(6, 1e-6) == []
    assert ranks(2) == [0]  # a single one after the top has no probability
    assert ranks(6, TOP_RATIO=1.0, MAX_TOP=2) == [*range(6)]
    assert ranks(6, TOP_RATIO=3.5, LAMBDA=1e-3) == [0, 1, 2, 3, 4]
    assert ranks(6, TOP_RATIO=9.0) == [*range(6)]
    assert ranks(6, TOP_RATIO=0.9, MAX_TOP=1, LAMBDA=1e-3) == [0, 1]
    drawn = []
    for _ in range(2):  # a run that resumes has the same seed
        torch.manual_seed(2)
        drawn.append(ranks(40, LAMBDA=3.0))
    assert drawn[0] == drawn[1] and 20 < len(drawn[0]) < 40


def test_an_image_whose_class_is_left_out_counts_as_the_first(tiny_clip):
    method = build_method("SkipTuning", {"START_LAYER": 2}, tiny_clip, NAMES).train()
    method.ranks = torch.tensor([0, 2])  # of three labels, one is left out
    labels = torch.tensor([1, 2, 3])
    batch = method.batch(images(3), labels)
    logits = method.output(batch.images).logits
    kept = logits[0].isfinite().nonzero()[:, 0]
    assert len(kept) == 2 and len({*labels.tolist()} - {*kept.tolist()}) == 1
    places = [kept.tolist().index(label) if label in kept else 0 for label in labels.tolist()]
    wanted = torch.nn.functional.cross_entropy(logits[:, kept], torch.tensor(places))
    assert near(method.terms(method.output(batch.images), batch)["loss"], wanted)


def test_clip_stays_as_it_is(tiny_clip):
    embedding, results = tiny_clip.token_embedding.weight, []  # large, and never written to
    clip_model = deepcopy(tiny_clip, {id(embedding): embedding})
    for kind in ("fp32", "amp"):
        torch.manual_seed(0)
        method = build_method("SkipTuning", {"START_LAYER": 2}, clip_model, NAMES).train()
        how = Precision(kind, CPU, half_on_cpu=True)
        how.place(method, clip_model)
        optimizer = torch.optim.SGD(method.learned().values(), lr=0.01)
        batch = method.batch(images(3), torch.zeros(3).long())
        training_step(method, batch, optimizer, how)
        assert {p.dtype for p in method.learned().values()} == {torch.float32}
        with torch.no_grad(), how.autocast():
            results.append(method.eval()(batch.images))
        if kind == "fp32":
            assert not any(p.requires_grad for p in clip_model.parameters())
            pairs = zip(clip_model.parameters(), tiny_clip.parameters(), strict=True)
            assert all(torch.equal(*pair) for pair in pairs)
    fp32, amp = results
    assert 0 < (fp32 - amp).abs().max() < 0.02 * fp32.abs().max()


def test_a_file_of_the_public_code(golden, method, tiny_clip):
    """It has the frozen weights, too, in half precision."""
    frozen = {
        method.public_name(name): p.half()
        for name, p in method.named_parameters()
        if not p.requires_grad
    }
    learned = {name: p.half() for name, p in method.public_state_dict().items()}
    fresh = build_method("SkipTuning", {"START_LAYER": 2}, tiny_clip, NAMES)
    fresh.load_public_state_dict(learned | frozen)
    assert all(
        torch.equal(p.half(), learned[name]) for name, p in fresh.public_state_dict().items()
    )
    later = build_method("SkipTuning", {"START_LAYER": 3}, tiny_clip, NAMES)
    with pytest.raises(UserError, match=r"has another '.*resblocks.2.*' than CLIP.*START_LAYER"):
        later.load_public_state_dict(learned | frozen)
