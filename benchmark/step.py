"""One training step on random weights of the true geometry: arithmetic, time and memory.

The operations that PyTorch executes (`torch.utils.flop_counter`) stand beside those that the
mathematics needs: an image passes once per visual prompt, a text prefix once per prompt, a class
name once per prompt and class, and nothing twice. The backward pass needs one matrix product per
frozen layer (for the input alone) and two per attention or similarity product.
"""

import resource
import time

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch.utils.flop_counter import FlopCounterMode

from trainers.config import METHODS, prompt_spec
from trainers.prompting import PromptedCLIP, build_clip

from .errors import Parser

GEOMETRY = {
    "ViT-B/32": (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12),
    "ViT-B/16": (512, 224, 12, 768, 16, 77, 49408, 512, 8, 12),
    "ViT-L/14": (768, 224, 24, 1024, 14, 77, 49408, 768, 12, 12),
}
ARGUMENTS = (
    "embed_dim", "image_resolution", "vision_layers", "vision_width", "vision_patch_size",
    "context_length", "vocab_size", "transformer_width", "transformer_heads", "transformer_layers",
)  # fmt: skip
WORDS = [
    "river", "forest", "highway", "pasture", "building", "church", "bridge", "tower", "garden",
    "lake", "desert", "street",
]  # fmt: skip


def class_names(count: int) -> list[str]:
    """Names of one to three words, distinct, and the same for the same count."""
    names = []
    for i in range(count):
        words = [WORDS[i % 12], WORDS[i // 12 % 12], WORDS[i // 144 % 12]]
        names.append(" ".join(words[: 1 + i % 3]) if i < 12 else " ".join(words))
    return names


def necessary_flops(model: PromptedCLIP, batch: int) -> dict[str, float]:
    """Operations of one forward and backward pass that no implementation can do without."""
    spec, text, visual = model.spec, model.text_encoder, model.image_encoder.visual
    M, D = max(spec.M, 1), text.text_projection.shape[1]

    def tower(tokens, pairs, width, layers):
        """Linear layers of `tokens` and attention over `pairs` of query and key."""
        return layers * tokens * 24 * width**2, layers * pairs * 4 * width

    width, patches = visual.conv1.weight.shape[0], len(visual.positional_embedding) - 1
    length = 1 + patches + (spec.vision_length if spec.M else 0)
    views = batch * M
    linear, attention = tower(
        views * length, views * length**2, width, len(visual.transformer.resblocks)
    )
    projected = views * (length if spec.token_level else 1)
    image_forward = linear + attention + 2 * projected * width * D
    image_forward += 2 * batch * patches * visual.conv1.weight.numel()
    image_backward = (linear + 2 * attention + 2 * projected * width * D) if spec.M else 0

    N, P = text.prefix_ids.shape
    K = len(text.eos)
    lengths = torch.bincount(text.pack_index // text.mask.shape[1], minlength=K).double()
    tokens = N * (P + int(lengths.sum()))
    pairs = N * (P * P + float((lengths * (P + lengths)).sum()))
    width = text.text_projection.shape[0]
    linear, attention = tower(tokens, pairs, width, len(text.transformer.resblocks))
    projected = tokens if spec.token_level else N * K
    text_forward = linear + attention + 2 * projected * width * D
    text_backward = (linear + 2 * attention + 2 * projected * width * D) if spec.N else 0

    similar = views * N * K * 2 * D
    if spec.token_level:
        similar += views * (length - 1) * 2 * D * N * float((text.token_mass[0] > 0).sum())
    return {
        "image": image_forward + image_backward,
        "text": text_forward + text_backward,
        "similarity": 3 * similar,
    }


def measure(backbone="ViT-B/16", classes=50, batch=4, threads=2, method="ALIGN", repeats=3) -> dict:
    """Count, time and weigh one training step.

    Returns:
        operations counted and necessary (FLOP), their ratio, median seconds, peak memory (MiB).
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    clip_model = build_clip(dict(zip(ARGUMENTS, GEOMETRY[backbone], strict=True)))
    size = clip_model.visual.input_resolution
    model = PromptedCLIP(clip_model, class_names(classes), prompt_spec(method, {})).train()
    images, labels = torch.randn(batch, 3, size, size), torch.arange(batch) % classes

    def step():
        model.zero_grad()
        F.cross_entropy(model(images), labels).backward()

    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with FlopCounterMode(display=False) as counter:
        step()
    necessary = necessary_flops(model, batch)
    return {
        "counted": counter.get_total_flops(),
        "necessary": sum(necessary.values()),
        "parts": necessary,
        "ratio": counter.get_total_flops() / sum(necessary.values()),
        "seconds": sorted(seconds)[len(seconds) // 2],
        "peak_mb": peak,
    }


def main(argv: list[str]) -> int:
    """Print the arithmetic, time and memory of one training step."""
    parser = Parser(prog="python -m benchmark step", description=__doc__.partition("\n")[0])
    parser.add_argument("--trainer", default="ALIGN", choices=METHODS)
    parser.add_argument("--backbone", default="ViT-B/16", choices=GEOMETRY)
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    for name in ("classes", "batch", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)} but must be at least 1")
    result = measure(args.backbone, args.classes, args.batch, args.threads, args.trainer)
    parts = ", ".join(f"{k} {v / 1e9:.0f}" for k, v in result["parts"].items())
    rows = [
        ("operations counted", f"{result['counted'] / 1e9:.0f} GFLOP"),
        ("operations necessary", f"{result['necessary'] / 1e9:.0f} GFLOP ({parts})"),
        ("ratio", f"{result['ratio']:.3f}"),
        ("time of a step (median)", f"{result['seconds']:.2f} s"),
        ("rate", f"{result['counted'] / result['seconds'] / 1e9:.0f} GFLOP/s"),
        ("peak memory of the process", f"{result['peak_mb']:.0f} MiB"),
    ]
    print(f"One training step: {args.trainer}, {args.backbone}, {args.classes} classes, "
          f"batch {args.batch}, float32, {args.threads} threads")  # fmt: skip
    print(tabulate(rows))
    return 0
