"""TextRefiner: the numbers of its golden file beside a step, its cache, public files, mistakes."""

from functools import partial

import pytest
import torch
from golden_files import near, node_of

from trainers.prompting import UserError, build_method
from trainers.prompting.checkpoint.public import find_prompts
from trainers.prompting.checkpoint.saved import Saved
from trainers.prompting.running.memory import within_memory

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
    content = {"state_dict": method.public_state_dict(), "method": method.own_state()}
    content |= {"trainer": "TextRefiner", "class_buffers": method.class_buffers}
    other.load_checkpoint(Saved.of(content | {"classnames": golden.meta["classnames"]}), names)
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
    content = {"state_dict": one.public_state_dict(), "method": one.own_state()}
    content |= {"trainer": "TextRefiner", "class_buffers": one.class_buffers}
    other.load_checkpoint(Saved.of(content | {"classnames": names[0]}), names[1])
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
    torch.save({"state_dict": memory}, tmp_path / "Memory" / "model.pth.tar-10")
    with pytest.raises(UserError, match=r"model.pth.tar-10' has no 'memory_item' as TextRefiner's"):
        find_prompts(method, str(tmp_path), 10)
    (tmp_path / "Memory" / "model.pth.tar-10").unlink()
    with pytest.raises(UserError, match=r"The checkpoint lacks 'memory.extractor.weight'"):
        method.load_checkpoint(find_prompts(method, str(tmp_path), 10), NAMES)
