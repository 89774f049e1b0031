"""Errors of half precision, ours and those of OpenAI's modules, on CLIPs with large activations.

The error of a step is its distance from a step in float32. A draw is a CLIP near the tests' tiny
one, with prompts, images and a few loud channels: channels with large states, as real CLIPs have.
One draw says little, because rounding errors depend on chance; with loud channels they spread over
two orders of magnitude. So `compare` takes several draws and returns the geometric mean of our
error over theirs.
"""

import math
import statistics
from copy import deepcopy
from functools import cache
from typing import NamedTuple

import torch
from cases import NAMES, SETTINGS
from naive import naive
from paths import GOLDEN

from trainers.prompting import build_method, load_clip
from trainers.prompting.running.precision import Precision

TINY = str(GOLDEN / "tiny_clip_seed0.safetensors")
LABELS = torch.tensor([0, 1, 2, 0])
# Our error may be larger than theirs by the factor MORE, because both round in different places,
# and in addition by CHANCE standard errors of the mean over draws.
MORE = 1.1
CHANCE = 2
LOUD = 300.0  # in real CLIPs three channels have states of hundreds
CPU = torch.device("cpu")


@cache
def tiny():
    clip_model = load_clip(TINY)
    table = clip_model.token_embedding.weight  # most of the weights, of which few are read
    table.data = table.data.bfloat16().float()
    return clip_model


def make_loud(clip_model, kind: str, channels: torch.Tensor) -> None:
    """Give three channels of both encoders large states, from the start on or by every block.

    `gains` enlarges LayerNorm's gains instead, which saturates attention: gradients then depend on
    the last digits.
    """
    towers = clip_model.transformer, clip_model.visual.transformer
    branches = [
        layer
        for tower in towers
        for block in tower.resblocks
        for layer in (block.attn.out_proj, block.mlp.c_proj)
    ]
    match kind:
        case "start":
            for positions in (
                clip_model.positional_embedding,
                clip_model.visual.positional_embedding,
            ):
                positions.data[:, channels] += LOUD * torch.tensor([1.0, -0.6, 0.3])
        case "blocks":
            for layer in branches:
                layer.weight.data[channels] *= LOUD
                layer.bias.data[channels] *= LOUD
        case "gains":
            for block in (block for tower in towers for block in tower.resblocks):
                for norm in (block.ln_1, block.ln_2):
                    norm.weight.data[channels] *= 100
        case _:
            assert kind == "quiet"


def vary(clip_model) -> None:
    """Change the weights a little, so that draws have different rounding errors.

    The new weights are exact in both half types, as public weights are in float16, so that only the
    arithmetic is compared. Token embeddings stay.
    """
    for weight in clip_model.parameters():
        if weight is not clip_model.token_embedding.weight:
            weight.data *= 1 + 0.1 * torch.randn_like(weight)
            weight.data = weight.data.bfloat16().float()


class Found(NamedTuple):
    """The result of a step: logits (B, K) minus their mean over classes, and flat gradients."""

    logits: torch.Tensor
    gradients: torch.Tensor


def step(setting: str, kind: str, device, loud: str, seed: int, stock: bool = False) -> Found:
    """Return the result of one step; with `stock` OpenAI's own modules compute it."""
    name, node, *dataset = SETTINGS[setting]
    clip_model = deepcopy(tiny())  # before the seed: the first call draws random numbers
    torch.manual_seed(seed)
    make_loud(clip_model, loud, torch.randperm(len(clip_model.ln_final.weight))[:3])
    vary(clip_model)
    method = build_method(name, node, clip_model, NAMES, *dataset)
    images = torch.randn(4, 3, 32, 32)
    how = Precision(kind, device, half_on_cpu=True)
    if not stock or how.name == "fp16":  # with autocast, they convert weights at each product
        how.place(method, clip_model)
    model = naive(clip_model, NAMES, method) if stock else method
    method.to(device).train()
    model.to(device)
    batch = method.batch([images.to(device)] * method.views, LABELS.to(device))
    with how.autocast():
        output = model.output(batch.images)
        terms = method.terms(output, batch)
    parameters = list(method.learned().values())
    method.backward(terms, how.scaler.scale)
    how.scaler.step(torch.optim.SGD(parameters, lr=0.0))  # undoes the loss scale
    logits = output.logits.detach().float().cpu()
    gradients = torch.cat([p.grad.float().cpu().flatten() for p in parameters])
    return Found(logits - logits.mean(1, keepdim=True), gradients)


@cache
def exact(setting: str, loud: str, seed: int) -> Found:
    return step(setting, "fp32", CPU, loud, seed)


def errors(found: Found, expected: Found) -> list[float]:
    """Return |x - x32| / |x32| of logits and gradients."""
    return [((x - y).norm() / y.norm()).item() for x, y in zip(found, expected, strict=True)]


def compare(setting: str, kind: str, device: torch.device, loud: str, draws: int) -> dict:
    """Compare our error with that of OpenAI's modules over several draws.

    Returns:
        For `logits` and for `gradients`, over the draws in which neither overflows: `ratio`, the
        geometric mean of our error over theirs; `spread`, its standard error as a factor; and
        `ours` and `stock`, the medians of both errors. `overflows`: the number of draws in which
        each overflows.
    """
    pairs = []
    overflows = {"ours": 0, "stock": 0}
    for seed in range(draws):
        expected = exact(setting, loud, seed)
        ours, stock = (
            errors(step(setting, kind, device, loud, seed, stock), expected)
            for stock in (False, True)
        )
        if all(map(math.isfinite, ours + stock)):
            pairs.append((ours, stock))
        for name, found in (("ours", ours), ("stock", stock)):
            overflows[name] += not all(map(math.isfinite, found))
    compared = {
        name: summary([(o[i], s[i]) for o, s in pairs]) for i, name in enumerate(Found._fields)
    }
    return {**compared, "overflows": overflows}


def summary(pairs: list[tuple[float, float]]) -> dict:
    logs = [math.log(ours / stock) for ours, stock in pairs]
    error = statistics.stdev(logs) / len(logs) ** 0.5
    ours, stock = (statistics.median(errors) for errors in zip(*pairs, strict=True))
    return {
        "ratio": math.exp(statistics.mean(logs)), "spread": math.exp(error), "ours": ours,
        "stock": stock,
    }  # fmt: skip


def worse(found: dict) -> list[str]:
    """Return the parts of `compare`'s result in which our error is significantly larger."""
    reasons = [
        f"{name}: {found[name]}"
        for name in Found._fields
        if found[name]["ratio"] > MORE * found[name]["spread"] ** CHANCE
    ]
    ours, stock = found["overflows"]["ours"], found["overflows"]["stock"]
    if ours - stock > CHANCE * math.sqrt(ours + stock):
        reasons.append(f"overflows: {found['overflows']}")
    return reasons
