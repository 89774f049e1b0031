"""Runs the cases of test_accelerator.py on a GPU, or in a process whose PyTorch has a pretend GPU.

Usage: program.py GUARD FOLDER, with a JSON list of [kind, setting, precision] on stdin; GUARD is
`real` where there is a GPU. Prints the same list with the result of each case.
"""

# ruff: noqa: E402 (a library is loaded before PyTorch, and paths are set before imports)
import contextlib
import ctypes
import io
import json
import os
import sys
import traceback
from functools import lru_cache
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "dassl-lite"), str(ROOT / "tests")]

os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read before the first product
if sys.argv[1] != "real":
    ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)  # before PyTorch looks for a GPU

import pretend
import torch
from cases import NAMES, SETTINGS
from paths import GOLDEN

from benchmark.measure.waits import noted

torch.backends.cudnn.allow_tf32 = False  # PyTorch's default, too coarse for a comparison
TINY = str(GOLDEN / "tiny_clip_seed0.safetensors")
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0])
HALF_DRAWS = 12


def build(setting: str):
    """Return the method and its CLIP."""
    from trainers.prompting import build_method, load_clip
    from trainers.prompting.method import METHODS

    name, node, *dataset = SETTINGS[setting]
    torch.manual_seed(0)
    clip_model = load_clip(TINY)
    support = {"images": IMAGES, "labels": LABELS} if METHODS[name].support_passes else None
    return build_method(name, node, clip_model, NAMES, *dataset, support=support), clip_model


def take_steps(setting: str, precision: str, device: torch.device) -> dict:
    """Do two training steps and an evaluation; `waits` are those of the second step."""
    from trainers.prompting.running.precision import Precision
    from trainers.prompting.step import training_step

    method, clip_model = build(setting)
    how = Precision(precision, device)
    how.place(method.model, clip_model)
    method.to(device).train()
    optimizer = torch.optim.SGD(method.model.trained().parameters(), lr=0.01, momentum=0.9)
    views = [IMAGES.to(device)] * method.views
    batch = method.batch(views, LABELS.to(device))
    output, _ = training_step(method, batch, optimizer, how)
    gradients = [p.grad.float().cpu().flatten() for p in method.model.trained().parameters()]
    logits = output.logits.detach().cpu()
    with noted() as waits:
        training_step(method, batch, optimizer, how)
    method.eval()
    with torch.no_grad(), how.autocast():
        evaluated = method.model(batch.images).cpu()
    return {
        "logits": logits, "evaluated": evaluated, "gradients": torch.cat(gradients), "waits": waits,
    }  # fmt: skip


@lru_cache(maxsize=1)  # the precisions of a setting are consecutive
def reference(setting: str) -> dict:
    return take_steps(setting, "fp32", torch.device("cpu"))


def step(setting: str, precision: str) -> dict:
    """Compare a step on the device with one in float32 on the CPU."""
    found = take_steps(setting, precision, pretend.DEVICE)
    expected = reference(setting)
    a, b = found["gradients"], expected["gradients"]
    return {
        "logits": difference(found["logits"], expected["logits"]),
        "evaluated": difference(found["evaluated"], expected["evaluated"]),
        "gradients": torch.cosine_similarity(a, b, dim=0).item(),
        "waits": found["waits"],
    }


def fused_step(setting: str, precision: str) -> dict:
    """Do a step as on a newer GPU, with fused kernels; the kernels themselves are replaced."""
    from trainers.prompting.transport import token_level, triton_kernels

    played = token_level.plain_token_distances
    kernels = {"obstacle": lambda *args, **kwargs: None, "token_distances": played}
    with mock.patch.multiple(triton_kernels, **kernels):
        return {"waits": take_steps(setting, precision, pretend.DEVICE)["waits"]}


def golden_step(name: str, precision: str, folder: Path) -> dict:
    """Compare a step and an evaluation with a golden file; `waits` are those of a second step."""
    from golden_files import build, read

    from trainers.prompting import load_clip
    from trainers.prompting.running.precision import Precision
    from trainers.prompting.step import training_step

    golden = read(GOLDEN / f"{name}.safetensors")
    clip_model = load_clip(TINY)
    method = build(golden, clip_model, folder)
    method.model.spec = method.model.spec.with_(max_iter=100)  # all are computed, and 100 suffice
    how = Precision(precision, pretend.DEVICE)
    how.place(method.model, clip_model)
    method.to(pretend.DEVICE).train()
    views = [view.to(pretend.DEVICE) for view in golden.views]
    batch = method.batch(views, golden.tensors["label"].to(pretend.DEVICE))
    found = {}
    if expected := golden.part("grad/"):
        optimizer = torch.optim.SGD(method.model.trained().parameters(), lr=0.0)
        output, terms = training_step(method, batch, optimizer, how)
        own = method.model.public_parameters()
        a = torch.cat([own[key].grad.float().cpu().flatten() for key in expected])
        b = torch.cat([value.flatten() for value in expected.values()])
        found["gradients"] = torch.cosine_similarity(a, b, dim=0).item()
        found["loss"] = abs(terms["loss"].item() - golden.tensors["loss"].item())
        found["logits"] = difference(output.logits, golden.tensors["logits"])
        with noted() as waits:
            training_step(method, batch, optimizer, how)
        found["waits"] = waits
    method.eval()
    with torch.no_grad(), how.autocast():
        evaluated = method.model(views[0])
    wanted = golden.tensors.get("logits_eval", golden.tensors["logits"])
    return found | {"evaluated": difference(evaluated, wanted)}


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a.detach().cpu() - b).abs().max().item()


def half(setting: str, precision: str, loud: str) -> dict:
    """Compare our errors in half precision with those of the stock modules."""
    from half import compare

    return compare(setting, precision, pretend.DEVICE, loud, HALF_DRAWS)


def whole_run(setting: str, precision: str, folder: Path) -> dict:
    """Run train.py uninterrupted, killed after an epoch and resumed, and as an evaluation."""
    import tiny

    from trainers.prompting.method import METHODS
    from trainers.prompting.trainer.trainer import PromptTrainer

    name, node, *_ = SETTINGS[setting]
    method = METHODS[name]
    node = {k: v for k, v in node.items() if k != "SENTENCES"} | {"PREC": precision}
    places = {key: method.outside.get(key, f"TRAINER.{method.node}.{key}") for key in node}
    pairs = [word for key, value in node.items() for word in (places[key], str(value))]
    pairs += ["TRAINER.DETERMINISTIC", "True"]

    def run(output, *flags):
        return tiny.run(folder, name, folder / output, 2, *flags, extra=pairs)

    def after_one(self, after_epoch=PromptTrainer.after_epoch):
        after_epoch(self)
        if self.epoch == 0:
            raise KeyboardInterrupt

    def saved(output):
        path = folder / output / method.checkpoint / "model.pth.tar-2"
        return torch.load(path, weights_only=True)

    codes = [run("whole")]
    with mock.patch.object(PromptTrainer, "after_epoch", after_one):
        codes.append(run("parts"))
    codes.append(run("parts"))
    codes.append(run("tested", "--eval-only", "--model-dir", str(folder / "whole")))
    answers, waits = zip(*(predicted(folder, device) for device in ("cpu", "cuda")), strict=True)
    whole, parts = saved("whole"), saved("parts")
    results = [json.loads((folder / name / "results.json").read_text()) for name in
               ("whole", "parts", "tested")]  # fmt: skip
    return {
        "codes": codes,
        "same": all(torch.equal(v, parts["state_dict"][k]) for k, v in whole["state_dict"].items()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cuBLAS": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "scaler": [state["scaler"].get("scale") for state in (whole, parts)],
        "accuracy": [record["accuracy"] for record in results],
        "probabilities": max(abs(a - b) for a, b in zip(*answers, strict=True)),
        "predict waits": waits[1],
    }


def predicted(folder: Path, device: str) -> tuple[list[float], list[str]]:
    """Probabilities of the 16 test images, in two batches, by `predict`; and what it waited for."""
    from trainers.prompting.use import commands

    images = [str(path) for path in sorted((folder / "tiny_colours").glob("test_*.png"))]
    words = ["predict", "--model-dir", str(folder / "whole"), *images, "--device", device]
    with contextlib.redirect_stdout(io.StringIO()) as said, noted() as waits:
        assert commands.main([*words, "--format", "json", "--batch-size", "8"]) == 0
    found = json.loads(said.getvalue())
    best = [sorted((c["class"], c["probability"]) for c in image["classes"]) for image in found]
    return [p for image in best for _, p in image], waits


def main() -> None:
    if sys.argv[1] != "real":
        pretend.install()
    folder, found = Path(sys.argv[2]), []
    for i, (kind, setting, precision, *more) in enumerate(json.load(sys.stdin)):
        with contextlib.redirect_stdout(sys.stderr):
            try:
                match kind:
                    case "step":
                        result = step(setting, precision)
                    case "fused":
                        result = fused_step(setting, precision)
                    case "golden":
                        result = golden_step(setting, precision, folder)
                    case "half":
                        result = half(setting, precision, *more)
                    case "run":
                        result = whole_run(setting, precision, folder / str(i))
            except Exception:
                result = {"problem": traceback.format_exc(limit=-5)}
            torch.use_deterministic_algorithms(False)  # which a run turns on
        found.append([kind, setting, precision, *more, result])
    print(json.dumps(found), file=sys.__stdout__)  # train.py replaces sys.stdout


if __name__ == "__main__":
    main()
