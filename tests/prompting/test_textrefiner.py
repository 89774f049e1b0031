"""TextRefiner, CLIP-SVD and MMRL++: numbers of golden files beside a step, public files."""

from functools import partial

import pytest
import torch
from golden_files import build, near, node_of, read
from models import saved
from paths import GOLDEN, ROOT
from test_golden import check_other_classes

import train
from trainers.prompting import UserError, build_method
from trainers.prompting.checkpoint.public import find_prompts, public_checkpoint
from trainers.prompting.checkpoint.saved import Saved
from trainers.prompting.methods.clipsvd import Spectrum
from trainers.prompting.running.memory import within_memory
from trainers.prompting.trainer.schedule import build_optim

FILE, NAMES = "textrefiner_coop", ["forest", "sea"]


def loss_of(method, golden, labels=None):
    labels = golden.tensors["label"] if labels is None else labels
    return method.losses(golden.tensors["image"], labels)["loss"]


def state_of(method):
    tensors = {**method.public_state_dict(), **method.own_state()}
    return {name: value.clone() for name, value in tensors.items()}


def test_what_is_read_and_written(of, tiny_clip):
    golden, method = of(FILE)
    tensors, image = golden.tensors, golden.tensors["image"]
    output = method.output(image)
    assert near(output.logits, tensors["logits_eval"])
    assert near(output.text.h[0], tensors["eval/text"], 1e-5)
    assert near(method.refine(output.text.h[0]), tensors["eval/refined"], 1e-5)
    v = method.train().tokens(output.image.states[:, 0])
    rows = method.local(v, output.image.inner[2][:, 0])
    assert near(rows.flatten(0, 1), tensors["local/tokens"], 1e-5)
    local = method.logit_scale * rows.flatten(0, 1) @ output.text.h[0].T
    assert near(local, tensors["local/logits"])
    q = torch.nn.functional.normalize(v.flatten(0, 1), dim=-1)
    assert torch.equal((q @ method.memory.cache.T).argmax(1), tensors["write/chosen"])
    method = of(FILE)[1].train()  # BatchNorm's statistics have moved
    loss_of(method, golden)
    norm = method.mid_image_trans["conv1"][1]
    assert near(method.memory.cache, tensors["after/cache"], 1e-5)
    assert near(norm.running_mean, tensors["after/bn_mean"], 1e-5)
    assert near(norm.running_var, tensors["after/bn_var"], 1e-5)
    assert near(method.eval()(image), tensors["after/logits_eval"])
    kept = method.memory.cache
    loss_of(method, golden)  # an evaluation reads only
    assert method.memory.cache is kept

    names = golden.meta["new_classnames"]
    other = build_method("TextRefiner", node_of(golden), tiny_clip, names, "EuroSAT").eval()
    other.load_checkpoint(saved(method, golden.meta["classnames"]), names)
    assert near(other(image), tensors["logits_eval_new"])

    optimizer = torch.optim.SGD(
        method.train().learned().values(), lr=0.01, momentum=0.9, weight_decay=5e-4
    )
    label = tensors["label"]
    for labels, wanted in zip((label, label.flip(0), label), tensors["steps/loss"], strict=True):
        optimizer.zero_grad()
        loss = loss_of(method, golden, labels)
        assert near(loss, wanted)
        loss.backward()
        optimizer.step()
    assert near(method.memory.cache, tensors["steps/cache"])
    assert near(method.prompt_learner.ctx, tensors["steps/prompt_learner.ctx"])
    assert near(method.eval()(image), tensors["steps/logits_eval"])


def test_a_step_that_is_done_again_or_resumed_writes_once(of):
    golden, method = of(FILE)
    step, count = partial(loss_of, method.train(), golden), []

    def work():
        loss = step()
        count.append(loss)
        if len(count) == 1:
            raise torch.OutOfMemoryError
        return loss

    begun = state_of(method)
    within_memory(method, work)
    once = state_of(method)
    assert len(count) == 2 and near(once["memory.cache"], golden.tensors["after/cache"], 1e-5)
    step()
    twice = state_of(method)
    assert not any(torch.equal(x["memory.cache"], twice["memory.cache"]) for x in (begun, once))
    _, resumed = of(FILE)
    resumed.load_own_state({name: once[name] for name in method.own_state()})
    loss_of(resumed.train(), golden)
    assert all(torch.equal(value, twice[name]) for name, value in state_of(resumed).items())


def test_a_cache_as_large_as_a_class_list_is_of_no_classes(tiny_clip):
    node, names = {"MEMORY_SIZE": 2}, [["forest", "sea"], ["cat", "dog"]]
    one, other = (build_method("TextRefiner", node, tiny_clip, each) for each in names)
    other.load_checkpoint(saved(one, names[0]), names[1])
    assert one.class_buffers and torch.equal(one.memory.cache, other.memory.cache)


def test_a_run_of_the_public_code(of, tmp_path):
    golden, method = of(FILE)
    whole = {name: x for name, x in golden.params.items() if not name.startswith("memory.")}
    tokens = {"prompt_learner.tokenized_prompts": torch.ones(6, 77)}
    tokens |= {"prompt_learner.token_prefix": torch.ones(6, 1, 128)}
    whole |= tokens | {"mid_image_trans.conv1.1.running_mean": torch.ones(64)}
    memory = {"extractor.weight": golden.params["memory.extractor.weight"]}
    for folder, content in (
        ("prompt_learner", {"state_dict": whole}),
        ("Memory", {"state_dict": memory, "memory_item": golden.tensors["after/cache"]}),
    ):
        (tmp_path / folder).mkdir()
        torch.save(content | {"epoch": 10}, tmp_path / folder / "model.pth.tar-10")
    for parameter in method.learned().values():
        parameter.data.zero_()
    method.load_checkpoint(find_prompts(method, str(tmp_path), 10), golden.meta["classnames"])
    assert near(method(golden.tensors["image"]), golden.tensors["after/logits_eval"])
    (tmp_path / "Memory" / "model.pth.tar-10").unlink()
    with pytest.raises(UserError, match=r"The checkpoint lacks 'memory.extractor.weight'"):
        method.load_checkpoint(find_prompts(method, str(tmp_path), 10), NAMES)


# ------------------------------------------------------------------ CLIP-SVD

SVD, PAIR = "clipsvd_all", ["forest", "sea"]


def svd(golden, clip_model, **node):
    node, names = node_of(golden, **node), golden.meta["classnames"]
    return build_method("CLIPSVD", node, clip_model, names, "EuroSAT").eval()


def test_it_starts_as_clip_and_takes_its_scale(of, tiny_clip):
    golden, method = of(SVD, SCALE=0.0)
    tensors = golden.tensors
    assert near(method(tensors["image"]), tensors["clip_scale/logits"])
    loss = method.losses(tensors["image"], tensors["label"])["loss"]
    assert near(loss, tensors["clip_scale/loss"])
    fresh = svd(golden, tiny_clip)
    assert near(fresh(tensors["image"]), tensors["start/logits_eval"])
    start = golden.part("init/")
    assert all(near(p, start[name], 1e-6) for name, p in fresh.public_state_dict().items())


def test_other_classes(of, tiny_clip):
    golden, method = of(SVD)
    names = golden.meta["new_classnames"]
    other = build_method("CLIPSVD", node_of(golden), tiny_clip, names, "EuroSAT").eval()
    other.load_checkpoint(saved(method, golden.meta["classnames"]), names)
    assert near(other(golden.tensors["image"]), golden.tensors["logits_eval_new"])


def test_steps_of_adamw(of):
    golden, method = of(SVD)
    expected = golden.part("steps/")
    method.load_public_state_dict(golden.part("init/"))
    optimizer = torch.optim.AdamW(method.train().learned().values(), weight_decay=0.01)
    for lr, wanted in zip(expected.pop("lr"), expected.pop("loss"), strict=True):
        optimizer.param_groups[0]["lr"] = float(lr)
        optimizer.zero_grad()
        loss = method.losses(golden.tensors["image"], golden.tensors["label"])["loss"]
        assert near(loss, wanted)
        loss.backward()
        optimizer.step()
    assert near(method.eval()(golden.tensors["image"]), expected.pop("logits_eval"), 1e-3)
    state = method.public_state_dict()
    assert len(expected) == 24
    assert all(near(state[name], value, 1e-4) for name, value in expected.items())


@pytest.mark.parametrize("shape", [(8, 11), (11, 8)])
@pytest.mark.parametrize("rank", [1.0, 0.5])
def test_a_branch_computes_the_merged_matrix(shape, rank):
    weight, y = torch.randn(shape), torch.randn(5, shape[1])
    update = Spectrum(weight, rank, learns=True)
    U, S, V = torch.linalg.svd(weight, full_matrices=False)
    kept = int(8 * rank)
    S[kept:] = 0
    assert near(update.merged(weight), U * S @ V)  # what RANK cuts
    update.vector_S.data += torch.randn(1, kept)
    S[:kept] = update.vector_S[0].detach()
    wanted = y @ (U * S @ V).T
    ways = y @ weight.T + update(y), y @ update.merged(weight).T
    assert all(near(way, wanted) for way in ways)
    grads = [torch.autograd.grad(way.square().sum(), update.vector_S)[0] for way in ways]
    assert near(*grads, 1e-3)
    assert not update.train().training


def test_what_learns_and_what_is_cut(tiny_clip):
    def learned(**node):
        method = build_method("CLIPSVD", node, tiny_clip, PAIR)
        assert not method.own_state()
        return method, {name.partition(".resblocks")[2] for name in method.public_state_dict()}

    method, names = learned(TRAIN_TEXT_ENCODER=False, TRAIN_MLP=False, TRAIN_K=False, RANK=0.75)
    assert names == {
        f".{i}.attn.{m}.vector_S" for i in range(4) for m in ("q_proj", "v_proj", "proj")
    }
    assert {p.shape for p in method.learned().values()} == {(1, 96)}
    cut = method.blocks("text")[0].weights  # of every matrix, on both sides
    assert len(cut) == 6 and all(update.vector_S.shape == (1, 96) for update in cut.values())
    cases = {(130, 1.0): 130, (48, 0.5): 24, (10, 0.99): 8, (4, 0.1): 1}
    sizes = [Spectrum(torch.randn(r, r), rank, True).vector_S.numel() for r, rank in cases]
    assert sizes == [*cases.values()]


def test_a_file_of_the_public_code(of, tiny_clip, tmp_path):
    golden, method = of(SVD)
    weights = golden.params | {"logit_scale": torch.ones(()), "a.fc_U.weight": torch.ones(2, 2)}
    torch.save({"weights": weights, "metadata": {}}, tmp_path / "base_model.pt")
    for parameter in method.learned().values():
        parameter.data.zero_()
    method.load_checkpoint(public_checkpoint(method, str(tmp_path)), golden.meta["classnames"])
    own = method.public_state_dict()
    assert len(own) == 48 and all(torch.equal(own[name], golden.params[name]) for name in own)
    less = svd(golden, tiny_clip, TRAIN_MLP=False)
    with pytest.raises(UserError, match=r"another 'transformer.*c_fc.vector_S' than CLIP, which"):
        public_checkpoint(less, str(tmp_path))
    start = {name: x for name, x in golden.part("init/").items() if "mlp" in name}
    torch.save({"weights": weights | start}, tmp_path / "base_model.pt")
    assert len(public_checkpoint(less, str(tmp_path)).state_dict) == 32


def test_the_published_schedule_swings(of):
    golden, method = of(SVD)
    file = ROOT / "configs/trainers/CLIPSVD/base2new.yaml"
    words = ["--config-file", str(file), "--trainer", "CLIPSVD", "DATASET.NAME", "Food101"]
    optim = train.setup_cfg(train.parse_args(words)).OPTIM
    optimizer, scheduler = build_optim(method.learned(), optim, n=25)
    wanted, rates = golden.tensors["schedule/base2new_lr"], []
    for _ in wanted:
        rates += scheduler.get_last_lr()
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx(wanted.tolist())


# ------------------------------------------------------------------ MMRL++


def test_tokens_that_stay_in_part(tiny_clip, tmp_path):
    golden = read(GOLDEN / "mmrlpp.safetensors")
    method = build(golden, tiny_clip, tmp_path)
    for side, name in (("image", "visual"), ("text", "text")):
        tokens = method.representation_learner.tokens(side)
        assert near(torch.stack([*tokens.values()]), golden.tensors[f"tokens/{name}"], 1e-5)
    other = build(golden, tiny_clip, tmp_path, BETA=1.0).eval()
    assert near(other(golden.tensors["image"]), golden.tensors["beta_1/logits_eval"])
    check_other_classes(
        golden, "new_classnames", "new_classes/logits_eval_new", tiny_clip, "EuroSAT"
    )


def test_steps_of_mmrlpp(tiny_clip, tmp_path):
    golden = read(GOLDEN / "mmrlpp.safetensors")
    method = build(golden, tiny_clip, tmp_path).train()
    optimizer = torch.optim.AdamW(method.learned().values(), lr=0.001, weight_decay=5e-4)
    for _ in range(3):
        optimizer.zero_grad()
        method.losses(golden.tensors["image"], golden.tensors["label"])["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        logits = method.eval()(golden.tensors["image"])
    assert near(logits, golden.tensors["steps/logits_eval"], 2e-4)


# ------------------------------------------------------------------ MMRL


@pytest.mark.parametrize(
    ("task", "half", "dataset", "is_own"),
    [
        ("FS", "all", "EuroSAT", True),
        ("B2N", "base", "EuroSAT", True),
        ("B2N", "new", "EuroSAT", False),
        ("B2N", "all", "ImageNet", False),
        ("CD", "all", "ImageNet", True),
        ("CD", "base", "EuroSAT", False),
    ],
)
def test_whose_classes_a_public_checkpoint_of_mmrl_has(tiny_clip, task, half, dataset, is_own):
    golden = read(GOLDEN / "mmrl.safetensors")
    node, names = node_of(golden, TASK=task, SUBSAMPLE_CLASSES=half), golden.meta["classnames"]
    method = build_method("MMRL", node, tiny_clip, names, dataset)
    method.load_checkpoint(Saved.of({"state_dict": golden.params}), names)
    assert method.own_classes == is_own
