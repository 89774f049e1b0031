"""Write a trained run for use without this project."""

import argparse
import io
import json
import logging
import warnings
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from ...checkpoint.public import PublicFiles, names_beside
from ...errors import UserError, need
from ...method import METHODS
from .arguments import write_output
from .load import load_run, run_parser
from .predict import read_names

PROGRAMS = (".pt2", ".onnx")  # which images with several labels have
FORMATS = {
    ".pt2": "a torch.export program from images to logits",
    ".onnx": "the same as ONNX",
    ".safetensors": "the text features as a classifier for open_clip and transformers",
}
OURS = __name__.removesuffix("use.commands.export")
# Parts of PyTorch's messages about code that cannot be traced, and what to do.
UNTRACED = {
    "specialized it to be a constant": "its code turns the number of images into a number of "
    "Python (by len, int or range): use x.shape[0] and functions of tensors",
    "data-dependent": "its Python code must not branch on the values of a tensor",
    "numpy()": "its code leaves PyTorch, as the solvers of POT on NumPy do: use tensors, or "
    "`predict`",
}
MOST_BYTES = 1 << 31
ERRORS = 0.01, 0.02, 0.05, 0.1, 0.2  # whose thresholds a file has


def main(argv: list[str], prog: str) -> int:
    """Run the command and return its exit code."""
    forms = ", ".join(f"{suffix} ({what})" for suffix, what in FORMATS.items())
    parser = run_parser(prog, f"{__doc__} As {forms}.")
    add = parser.add_argument
    add(
        "--format",
        choices=["open_clip"],
        help="open_clip: --output is a folder, for a CLIP whose own weights the run has tuned",
    )
    add("--output", type=Path, required=True,
        help=f"a file that ends in {', '.join(FORMATS)}, or one that the method's public code "
        "reads, such as lora_weights.pt")  # fmt: skip
    add("--classnames", type=Path, metavar="FILE", help="other classes, one name a line")
    add(
        "--weight",
        type=share,
        default=1.0,
        metavar="A",
        help="the share of the trained weights, the others CLIP's: from 0 to 1 (default: 1)",
    )
    args = parser.parse_args(argv)
    names = read_names(args.classnames) if args.classnames else None
    run = load_run(args, names, True, args.weight)
    need(
        not run.several or (args.output.suffix in PROGRAMS and not args.format),
        f"'{args.output}' would be for images with one label, and these have several: let --output "
        f"end in {' or '.join(PROGRAMS)}, without --format",
    )
    if args.format:
        from ..open_clip_folder import write_open_clip

        print(f"{args.output}: {write_open_clip(run, args.output, metadata(run))}")
        return 0
    own_files = run.model.public_files if isinstance(run.model, PublicFiles) else ()
    if beside := names_beside(args.output.name, own_files):
        for pattern, content in run.model.write_public().items():
            write_output(args.output.with_name(beside[pattern]), as_file(content))
            print(f"{args.output.with_name(beside[pattern])}: as the public code of {run.method}")
        return 0
    if args.output.suffix not in FORMATS:
        raise UserError(
            f"--output is '{args.output}': its name must end in {', '.join(FORMATS)}"
            + "".join(f", or be {pattern}" for pattern in own_files)
        )
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of PyTorch about its own code
        content, sentence = WRITERS[args.output.suffix](run)
    write_output(args.output, content)
    print(f"{args.output}: {sentence}")
    return 0


def share(text: str) -> float:
    """Return a number from 0 to 1."""
    try:
        number = float(text)
        if 0 <= number <= 1:
            return number
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"'{text}' is not a number from 0 to 1")


def as_file(content: object) -> bytes:
    """Return the bytes that `torch.save` writes."""
    import torch

    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def metadata(run) -> dict[str, str]:
    """Return the metadata of an exported file: names as text, all else as JSON."""
    images = run.images
    resize, _, to = images.resize.partition(" ")
    more = {"temperature": run.temperature, "upright": True}
    if run.several:
        more = {"several": True, "upright": True, "thresholds": run.find_thresholds().tolist()}
        more["scores"] = "sigmoid" if run.model.several == "decides" else "logits"
    elif not isinstance(calibration := run.calibration, str):
        more["lac_thresholds"] = {str(error): calibration.threshold(error) for error in ERRORS}
    return {
        "method": run.method,
        "backbone": run.backbone,
        "classnames": json.dumps(run.classnames, ensure_ascii=False),
        "image_size": json.dumps(images.size),
        "image_mean": json.dumps(images.mean if images.normal else [0.0] * 3),
        "image_std": json.dumps(images.std if images.normal else [1.0] * 3),
        "interpolation": images.interpolation,
        "resize": resize,
        "resize_to": to or json.dumps(images.size),
        **{name: json.dumps(value) for name, value in more.items()},
    }


def text_features(run) -> tuple[bytes, str]:
    """Return a safetensors file with `weight` (K, D) and `logit_scale`, and a line about it."""
    from safetensors.torch import save

    from ..export import text_classifier

    tensors = text_classifier(run.model)
    shape = " x ".join(map(str, tensors["weight"].shape))
    return save(dict(tensors), metadata(run)), f"text features of {run.method}, {shape}"


def export_program(run):
    """Return the program of a run, two images, and how far its logits are from the model's."""
    import torch

    from ..export import adapting_methods, program, random_images

    size = run.images.size
    try:
        with redirect_stderr(io.StringIO()):  # PyTorch prints the graph of what it cannot trace
            made = program(run.model, size)
    except Exception as error:
        if hasattr(error, "exit_code") or METHODS[run.method].__module__.startswith(OURS):
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        remedy = next(
            (r for words, r in UNTRACED.items() if words in str(error)), "change its code"
        )
        raise UserError(
            f"{run.method} is a plug-in that torch.export cannot trace ({reason}): {remedy}. "
            f"None that adapts can be either: {', '.join(adapting_methods())}"
        ) from error
    images = random_images(run.model)
    with torch.no_grad():
        logits = run.model(images)
        if not torch.allclose(logits, run.model(images), equal_nan=True):
            raise UserError(
                f"{run.method} gives other logits for the same images each time: draw its random "
                "numbers in training only, or keep them in a buffer"
            )
        apart = float((made.module()(images) - logits).abs().max() / logits.abs().max())
    return made, images, apart


def torch_program(run) -> tuple[bytes, str]:
    """Return a file for `torch.export.load`, metadata in its `run.json`, and a line about it."""
    import torch

    made, _, apart = export_program(run)
    stream = io.BytesIO()
    torch.export.save(made, stream, extra_files={"run.json": json.dumps(metadata(run))})
    return stream.getvalue(), describe_program(run, apart)


def onnx_program(run) -> tuple[bytes, str]:
    """Return an ONNX model with metadata, checked by onnxruntime, and a line about it."""
    import torch

    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch.onnx needs it)
    except ImportError as error:
        raise UserError(
            f"{error.name} is missing: `pip install onnx onnxscript onnxruntime`, or write a .pt2"
        ) from error
    made, images, _ = export_program(run)
    onnx: Any = torch.onnx.export(made, (), dynamo=True, input_names=["images"],
                                  output_names=["logits"], verbose=False)  # fmt: skip
    onnx.model.metadata_props.update(metadata(run))
    proto = onnx.model_proto
    if proto.ByteSize() >= MOST_BYTES:
        raise UserError("this CLIP is larger than the 2 GiB of an ONNX file: write a .pt2")
    content = proto.SerializeToString()
    session = onnxruntime.InferenceSession(content)
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        wanted = run.model(images)
        apart = float((torch.from_numpy(logits) - wanted).abs().max() / wanted.abs().max())
    return content, describe_program(run, apart)


def describe_program(run, apart: float) -> str:
    """Return a line about a program; raises UserError if logits differ by over TOLERANCE."""
    from ..export import TOLERANCE

    if not apart <= TOLERANCE:
        raise UserError(
            f"the program of {run.method} gives logits that are off by {apart:.1e} of the largest: "
            "nothing is written; please report it with the versions that train.py prints",
            exit_code=1,
        )
    size = run.images.size
    return (
        f"{run.method}, images (B, 3, {size}, {size}) to logits (B, {len(run.classnames)}), equal "
        f"to the model's within {apart:.1e} of the largest"
    )


WRITERS = {".pt2": torch_program, ".onnx": onnx_program, ".safetensors": text_features}
