"""Three steps at test time, against loops over single images that share no line with the methods.

The golden files have one step, in which the views are new anyway, the state of AdamW is empty, and
nothing decays.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.optim import AdamW

from trainers.prompting import build_method

NAMES = ["forest", "sea or lake", "annual crop land", "road"]
STEPS, LR, VIEWS, SHARE = 3, 0.3, 16, 0.4
KEYS = {"TTA_STEPS": STEPS, "LR": LR, "BATCH_SIZE": VIEWS, "SELECTION_P": SHARE}


def uncertainty(p):
    return -(p * p.log()).sum(-1)


def agreement(p):
    return uncertainty(p.mean(0))


def each_alone(p):
    return uncertainty(p).mean()


def dispersion(t):
    return -torch.stack([(row - t.mean(0)).norm() for row in t]).mean()


def reflections(t):
    return torch.stack([(t @ row).norm() for row in t]).mean() - 1


def surest_of(logits):
    return sorted(uncertainty(logits.softmax(-1)).argsort()[: int(VIEWS * SHARE)].tolist())


def adapt(method, z, c, objective, updates):
    """Return the context after the steps, and the views that were the surest in each of them.

    The objective is of the probabilities of those of the first step, of the text features, and of
    the number of the step.
    """
    c, surest = c.clone().requires_grad_(), []
    optimizer = AdamW([c], LR, weight_decay=0.01)
    for step in range(updates):
        h = method.text_encoder([c[None]]).h[0]
        logits = method.logit_scale.detach() * z @ h.T
        surest.append(surest_of(logits))
        optimizer.zero_grad()
        objective(logits[surest[0]].softmax(-1), h, step).backward()
        optimizer.step()
    return c.detach(), surest


CASES = {
    "TPT": ("TPT", {}, lambda p, h, step: agreement(p)),
    "R-TPT": ("RTPT", {"NEIGHBORS": 3}, lambda p, h, step: each_alone(p)),
    "C-TPT": ("CTPT", {"LAMBDA_TERM": 5}, lambda p, h, step: agreement(p) + 5 * dispersion(h)),
    "C-TPT, two steps": (
        "CTPT", {"LAMBDA_TERM": 5, "TWO_STEP": True},
        lambda p, h, step: 5 * dispersion(h) if step % 2 else agreement(p),
    ),
    "O-TPT": ("OTPT", {"LAMBDA_TERM": 3}, lambda p, h, step: agreement(p) + 3 * reflections(h)),
}  # fmt: skip


def views_of(clip_model, count):
    images = torch.randn(count, VIEWS, 3, 32, 32, generator=torch.Generator().manual_seed(31))
    with torch.no_grad():
        z = clip_model.encode_image(images.flatten(0, 1)).float()
    return F.normalize(z, dim=-1).unflatten(0, (count, VIEWS))


def close(found, wanted, start):
    """Say if two results of steps are equal, up to an entry in two hundred.

    The step of an entry whose gradient rounds to 0 has a sign by chance.
    """
    far = (found - wanted).abs() > 1e-2 * (wanted - start).abs().max()
    return far.float().mean() < 5e-3


@pytest.mark.parametrize("case", CASES)
def test_contexts_after_three_steps(tiny_clip, case):
    name, node, objective = CASES[case]
    method = build_method(name, KEYS | {"CTX_INIT": "a photo of a"} | node, tiny_clip, NAMES).eval()
    z, c0 = views_of(tiny_clip, 4), 3 * torch.randn(4, 4, 128)  # so large that its decay is seen
    found, others = method.adapt_contexts(z, c0), 0
    for own, z_v, c in zip(found, z, c0, strict=True):
        updates = STEPS * (1 + node.get("TWO_STEP", False))
        wanted, surest = adapt(method, z_v, c, objective, updates)
        assert close(own, wanted, c)
        others += surest[-1] != surest[0]
    assert others  # else the test would not see that views are chosen anew


def test_shifts_after_three_steps(tiny_clip):
    node = KEYS | {"WITH_CONCEPTS": False, "WITH_TEMPLATES": False, "LR": 1.0}
    for own in (True, False):
        method = build_method("TPS", node | {"PER_LABEL": own}, tiny_clip, NAMES).eval()
        x, h, others = views_of(tiny_clip, 4), method.text().h[0].detach(), 0
        found = method.shifts(x, h)
        for r_own, x_v in zip(found, x, strict=True):
            r, surest = torch.zeros(len(h) if own else 1, 64, requires_grad=True), []
            optimizer = AdamW([r], 1.0, weight_decay=0.01)
            for _ in range(STEPS):
                logits = method.logit_scale.detach() * x_v @ F.normalize(h + r, dim=-1).T
                surest.append(surest_of(logits))
                optimizer.zero_grad()
                agreement(logits[surest[-1]].softmax(-1)).backward()
                optimizer.step()
            assert close(r_own, r.detach(), 0)
            others += surest[-1] != surest[0]
        assert others


def test_a_step_that_overflows_leaves_no_trace_in_the_steps_after_it(tiny_clip, monkeypatch):
    """The context stays the same bits; AdamW counts the step, with a gradient of 0."""
    node = KEYS | {"CTX_INIT": "a photo of a"}
    gradient_of, calls = torch.autograd.grad, []

    def overflowing(loss, c):
        (gradient,) = gradient_of(loss, c)
        calls.append(c.detach().clone())
        if len(calls) == 1:
            gradient[1, 0, 0] = torch.inf
        return (gradient,)

    method = build_method("TPT", node, tiny_clip, NAMES).eval()
    z, c0 = views_of(tiny_clip, 3), method.initial(torch.zeros(3, 64)).detach()
    whole = method.adapt_contexts(z, c0)
    monkeypatch.setattr(torch.autograd, "grad", overflowing)
    found = method.adapt_contexts(z, c0)
    monkeypatch.undo()
    assert len(calls) == STEPS and torch.equal(calls[1][1], c0[1])
    assert torch.equal(found[[0, 2]], whole[[0, 2]])

    c = c0[1].clone().requires_grad_()
    optimizer, kept = AdamW([c], LR, weight_decay=0.01), None
    for step in range(STEPS):
        h = method.text_encoder([c[None]]).h[0]
        logits = method.logit_scale.detach() * z[1] @ h.T
        kept = surest_of(logits) if kept is None else kept
        optimizer.zero_grad()
        agreement(logits[kept].softmax(-1)).backward()
        if step == 0:
            c.grad.zero_()
        optimizer.step()
        c.data = c0[1].clone() if step == 0 else c.data
    assert close(found[1], c.detach(), c0[1])


def test_residuals_of_dpe_decay(tiny_clip):
    """Each step is the first of a new AdamW, from the residuals of the step before."""
    node = {"TTA_STEPS": STEPS, "LR_TEXT": 0.3, "LR_IMAGE": 0.2, "ALPHA": 2.0, "SCALE": 20.0}
    method = build_method("DPE", node, tiny_clip, NAMES, "EuroSAT").eval()
    q, *v = views_of(tiny_clip, 1)[0, :4]
    v, present, t = F.normalize(torch.stack(v), dim=-1), [0, 1, 3], method.evolved
    found = method.residuals(q, v, torch.tensor(present))
    r, u = torch.zeros_like(t, requires_grad=True), torch.zeros_like(v, requires_grad=True)
    for _ in range(STEPS):
        texts, w = F.normalize(t + r, dim=-1), F.normalize(v + u, dim=-1)
        S = list(20 * texts @ q)
        for p, k in enumerate(present):
            S[k] = S[k] + 2 * torch.exp(-5 * (1 - w[p] @ q))
        both = w @ texts[present].T / 0.01
        ce = -both.log_softmax(-1).diagonal().mean()
        groups = [{"params": [r], "lr": 0.3}, {"params": [u], "lr": 0.2}]
        optimizer = AdamW(groups, eps=1e-3, weight_decay=0.1)
        optimizer.zero_grad()
        (uncertainty(torch.stack(S).softmax(0)) + 0.5 * ce).backward()
        optimizer.step()
    for own, wanted, rate in zip(found, (r, u), (0.3, 0.2), strict=True):
        far = (own - wanted).abs() > 1e-3 * rate * math.sqrt(STEPS)
        assert far.float().mean() < 5e-3
