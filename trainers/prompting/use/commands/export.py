"""Write a trained run for use without this project."""

import io
import json
import logging
import warnings
from pathlib import Path
from typing import Any

from ...checkpoint.public import PublicFiles, names_beside
from ...errors import UserError, need
from .arguments import write_output
from .load import load_run, run_parser
from .predict import read_names

PROGRAMS = (".pt2", ".onnx")  # which images with several labels have
FORMATS = {
    ".pt2": "a torch.export program from images to logits",
    ".onnx": "the same as ONNX",
    ".safetensors": "the text features as a classifier for open_clip and transformers",
}
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
        type=float,
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
    """Return the program of a run, two images, and the model's logits for them."""
    import torch

    from ..export import program, random_images

    images = random_images(run.model)
    with torch.no_grad():
        return program(run.model, run.images.size), images, run.model(images)


def torch_program(run) -> tuple[bytes, str]:
    """Return a file for `torch.export.load`, metadata in its `run.json`, and a line about it."""
    import torch

    made, images, wanted = export_program(run)
    stream = io.BytesIO()
    torch.export.save(made, stream, extra_files={"run.json": json.dumps(metadata(run))})
    return stream.getvalue(), describe_program(run, made.module()(images), wanted)


def onnx_program(run) -> tuple[bytes, str]:
    """Return an ONNX model with metadata, checked by onnxruntime, and a line about it."""
    import onnxruntime
    import onnxscript  # noqa: F401 (torch.onnx needs it)
    import torch

    made, images, wanted = export_program(run)
    onnx: Any = torch.onnx.export(made, (), dynamo=True, input_names=["images"],
                                  output_names=["logits"], verbose=False)  # fmt: skip
    onnx.model.metadata_props.update(metadata(run))
    content = onnx.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content)
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return content, describe_program(run, torch.from_numpy(logits), wanted)


def describe_program(run, logits, wanted) -> str:
    """Return a line about a program; raises UserError if logits differ by over TOLERANCE."""
    from ..export import TOLERANCE

    apart = float((logits - wanted).abs().max() / wanted.abs().max())
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
