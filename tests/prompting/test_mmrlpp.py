"""MMRL++ beyond test_golden.py: its tokens, their share, other classes, steps."""

import torch
from golden_files import build, near, read
from paths import GOLDEN
from test_golden import check_other_classes


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
