"""CLIP-SVD: the numbers of its golden file beside a step, its two ways, schedule and mistakes."""

import pytest
import torch
from golden_files import near, node_of
from paths import ROOT

import train
from trainers.prompting import UserError, build_method
from trainers.prompting.checkpoint.public import public_checkpoint
from trainers.prompting.checkpoint.saved import Saved
from trainers.prompting.methods.clipsvd import Spectrum
from trainers.prompting.trainer.schedule import build_optim

FILE, NAMES = "clipsvd_all", ["forest", "sea"]


def built(golden, clip_model, **node):
    node, names = node_of(golden, **node), golden.meta["classnames"]
    return build_method("CLIPSVD", node, clip_model, names, "EuroSAT").eval()


def test_it_starts_as_clip_and_takes_its_scale(of, tiny_clip):
    golden, method = of(FILE, SCALE=0.0)
    tensors = golden.tensors
    assert near(method(tensors["image"]), tensors["clip_scale/logits"])
    loss = method.losses(tensors["image"], tensors["label"])["loss"]
    assert near(loss, tensors["clip_scale/loss"])
    fresh = built(golden, tiny_clip)
    assert near(fresh(tensors["image"]), tensors["start/logits_eval"])
    start = golden.part("init/")
    assert all(near(p, start[name], 1e-6) for name, p in fresh.public_state_dict().items())


def test_other_classes(of, tiny_clip):
    golden, method = of(FILE)
    names = golden.meta["new_classnames"]
    other = build_method("CLIPSVD", node_of(golden), tiny_clip, names, "EuroSAT").eval()
    saved = {"state_dict": method.public_state_dict(), "classnames": golden.meta["classnames"]}
    other.load_checkpoint(Saved.of(saved), names)
    assert near(other(golden.tensors["image"]), golden.tensors["logits_eval_new"])


def test_steps_of_adamw(of):
    golden, method = of(FILE)
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
    assert not update.train().training and update.shape == shape


def test_what_learns_and_what_is_cut(tiny_clip):
    def learned(**node):
        method = build_method("CLIPSVD", node, tiny_clip, NAMES)
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
    golden, method = of(FILE)
    weights = golden.params | {"logit_scale": torch.ones(()), "a.fc_U.weight": torch.ones(2, 2)}
    torch.save({"weights": weights, "metadata": {}}, tmp_path / "base_model.pt")
    for parameter in method.learned().values():
        parameter.data.zero_()
    method.load_checkpoint(public_checkpoint(method, str(tmp_path)), golden.meta["classnames"])
    own = method.public_state_dict()
    assert len(own) == 48 and all(torch.equal(own[name], golden.params[name]) for name in own)
    with pytest.raises(UserError, match=r"base_model.pt holds the whole CLIP and is only read"):
        method.write_public()
    less = built(golden, tiny_clip, TRAIN_MLP=False)
    with pytest.raises(UserError, match=r"another 'transformer.*c_fc.vector_S' than CLIP, which"):
        public_checkpoint(less, str(tmp_path))
    start = {name: x for name, x in golden.part("init/").items() if "mlp" in name}
    torch.save({"weights": weights | start}, tmp_path / "base_model.pt")
    assert len(public_checkpoint(less, str(tmp_path)).state_dict) == 32
    torch.save({"state_dict": weights}, tmp_path / "base_model.pt")
    with pytest.raises(UserError, match="The checkpoint has no 'weights' as CLIP-SVD's"):
        public_checkpoint(method, str(tmp_path))


def test_the_published_schedule_swings(of):
    golden, method = of(FILE)
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
