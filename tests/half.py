"""Half precision beside float32, ours and that of OpenAI's modules, on CLIPs as loud as real ones.

One draw is a CLIP near the tests' tiny one, prompts, images and loud channels. A draw says little:
how far off rounding is depends on chance, and where a few channels drown the others its errors
spread over two orders of magnitude. So `compare` takes several and gives the geometric mean of our
error over theirs.
"""

import math
import statistics
from copy import deepcopy
from functools import cache
from typing import NamedTuple

import torch
from cases import NAMES, SETTINGS
from paths import GOLDEN

from trainers.naive import Naive
from trainers.prompting import build_method, load_clip
from trainers.prompting.running.precision import INIT_SCALE, Precision
from trainers.prompting.step import update

TINY = str(GOLDEN / "tiny_clip_seed0.safetensors")
LABELS = torch.tensor([0, 1, 2, 0])
# Our error may be larger than theirs by this factor: each rounds at places of its own. Beyond it,
# by chance: two standard errors of a mean over draws.
MORE = 1.1
CHANCE = 2
LOUD = 300.0  # three channels of real CLIPs have states of hundreds
CPU = torch.device("cpu")


@cache
def tiny():
    return load_clip(TINY)


def make_loud(clip_model, kind: str, channels: torch.Tensor) -> None:
    """Give three channels of both towers large states, from the start on or by every block.

    `gains` of LayerNorm saturate attention instead: there gradients depend on the last digits.
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
    """Another CLIP near this one, so that no two draws round alike.

    Its weights are numbers of both half types, as public weights are numbers of float16: what is
    compared is arithmetic. Of the words, most of the weights, few are read: these stay.
    """
    for weight in clip_model.parameters():
        if weight is not clip_model.token_embedding.weight:
            weight.data *= 1 + 0.1 * torch.randn_like(weight)
        weight.data = weight.data.bfloat16().float()


def precision_of(kind: str, device: torch.device) -> Precision:
    """`fp32`; `fp16` and `amp` in float16 as a GPU has them, on the CPU, too; `bf16`, its amp."""
    how = Precision("fp32" if kind == "fp32" else "amp", device)
    if kind in ("fp16", "amp"):
        how.name, how.half = kind, torch.float16
        how.scaler = torch.amp.GradScaler(device.type, init_scale=INIT_SCALE)
    return how


class Found(NamedTuple):
    """What a step comes to: logits (B, K) less their mean over the classes, gradients in a row."""

    logits: torch.Tensor
    gradients: torch.Tensor


def step(setting: str, kind: str, device, loud: str, seed: int, stock: bool = False) -> Found:
    """One step; `stock`: computed by OpenAI's modules as they are."""
    name, node, *dataset = SETTINGS[setting]
    torch.manual_seed(seed)
    clip_model = deepcopy(tiny())
    make_loud(clip_model, loud, torch.randperm(len(clip_model.ln_final.weight))[:3])
    vary(clip_model)
    method = build_method(name, node, clip_model, NAMES, *dataset)
    images = torch.randn(4, 3, 32, 32)
    how = precision_of(kind, device)
    if not (stock and how.name == "amp"):  # where autocast converts weights at each product
        how.place(method.model, clip_model)
    model = Naive(clip_model, NAMES, method.model) if stock else method.model
    method.to(device).train()
    model.to(device)
    batch = method.batch([images.to(device)] * method.views, LABELS.to(device))
    with how.autocast():
        output = model.output(batch.images)
        terms = method.terms(output, batch)
    parameters = list(method.model.trained().parameters())
    update(method, terms, torch.optim.SGD(parameters, lr=0.0), how)
    logits = output.logits.detach().float().cpu()
    gradients = torch.cat([p.grad.float().cpu().flatten() for p in parameters])
    return Found(logits - logits.mean(1, keepdim=True), gradients)


@cache
def exact(setting: str, loud: str, seed: int) -> Found:
    return step(setting, "fp32", CPU, loud, seed)


def errors(found: Found, expected: Found) -> list[float]:
    """|x - x32| / |x32| of logits and gradients."""
    return [((x - y).norm() / y.norm()).item() for x, y in zip(found, expected, strict=True)]


def compare(setting: str, kind: str, device: torch.device, loud: str, draws: int) -> dict:
    """Our error over that of OpenAI's modules, of logits and gradients, over several draws.

    Returns:
        For `logits` and `gradients`, of the draws in which neither overflows, the `ratio`
        (geometric mean), how far it may be off by chance (`spread`, the factor of one standard
        error), and the medians of both errors; and in how many draws each `overflows`.
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
    """Of what `compare` found, where ours is farther off than theirs, and not by chance."""
    reasons = [
        f"{name}: {found[name]}"
        for name in Found._fields
        if found[name]["ratio"] > MORE * found[name]["spread"] ** CHANCE
    ]
    ours, stock = found["overflows"]["ours"], found["overflows"]["stock"]
    if ours - stock > CHANCE * math.sqrt(ours + stock):
        reasons.append(f"overflows: {found['overflows']}")
    return reasons
