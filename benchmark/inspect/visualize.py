"""Draw token-level transport plans over an image, for prompts of one class."""

import io
from argparse import ArgumentTypeError
from pathlib import Path

from trainers.prompting.errors import UserError, check_name

from ..cli import Parser, write_output
from .load import load_run, test_images


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m benchmark visualize",
        description="Where on an image each word of a prompt is transported to, for some prompts.",
    )
    add = parser.add_argument
    add("--model-dir", type=Path, required=True, help="output folder of a finished ALIGN run")
    add("--image", type=Path, help="an image file (default: a test image of the class)")
    add("--class-name", help="the class whose prompts are shown (default: the image's own)")
    add("--index", type=int, default=0, help="which test image of the class (default: 0)")
    add("--prompts", type=pairs, default="1 2", help="numbers of the prompts (default: '1 2')")
    add("--output", type=Path, default=Path("transport.png"), help="(default: transport.png)")
    return parser


def pairs(text: str) -> list[int]:
    words = text.replace(",", " ").split()
    if not words or not all(w.isdecimal() and int(w) > 0 for w in words):
        raise ArgumentTypeError(f"'{text}' is not a list of prompt numbers from 1 on")
    return [int(w) for w in words]


def main(argv: list[str]) -> int:
    """Load the run's model, solve the token level for one image and class, and draw the plans."""
    args = build_parser().parse_args(argv)
    run = load_run(args.model_dir)
    model, spec = run.model, run.model.spec
    if not spec.token_level:
        raise UserError(f"the run in '{args.model_dir}' has no token-level transport to show")
    most = min(max(spec.M, 1), max(spec.N, 1))
    if max(args.prompts) > most:
        raise UserError(f"prompt {max(args.prompts)} is asked for, but the run has {most}")
    path, name = choose(run, args)
    k = run.classnames.index(name)
    image = run.preprocess(open_image(path))
    draw(
        args.output,
        denormalize(image, run.settings),
        [plan(model, image, k, n - 1) for n in args.prompts],
        [model.text_encoder.words(k, n - 1) for n in args.prompts],
        [f"prompt {n}" for n in args.prompts],
        f"'{name}'",
    )
    print(f"{args.output}: {path} against '{name}'")
    return 0


def choose(run, args) -> tuple[Path, str]:
    """The image to show, and the class whose prompts it meets."""
    names = run.classnames
    if args.class_name:
        check_name("class", args.class_name, names)
    if args.image:
        if not args.class_name:
            raise UserError("--image needs --class-name: the class whose prompts are shown")
        return args.image, args.class_name
    items = [i for i in test_images(run) if args.class_name in (None, i.classname)]
    if not 0 <= args.index < len(items):
        raise UserError(f"--index is {args.index} but there are {len(items)} test images")
    return Path(items[args.index].impath), items[args.index].classname


def open_image(path: Path):
    from dassl.utils import read_image

    return read_image(str(path))


def plan(model, image, k: int, n: int):
    """T of visual and textual prompt n for class k: (P, L), the patches and the real tokens."""
    import torch

    from trainers.prompting import sinkhorn

    spec = model.spec
    with torch.no_grad():
        text = model.text_features()
        r = model.image_encoder(image[None].to(model.logit_scale.device),
                                model.prompt_learner().vision).r[0, n]  # fmt: skip
        real = text.s_weights.mass[n, k] > 0
        cost = 1 - r @ text.s[n, k, real].T
        T = sinkhorn(cost, reg=spec.reg, tol=spec.tol, max_iter=spec.max_iter).plan
    patches = len(model.image_encoder.visual.positional_embedding) - 1
    return T[:patches].cpu()  # the visual prompt's own tokens stand behind the patches


def denormalize(image, cfg):
    import torch

    mean = torch.tensor(cfg.INPUT.PIXEL_MEAN)[:, None, None]
    std = torch.tensor(cfg.INPUT.PIXEL_STD)[:, None, None]
    return (image * std + mean).clamp(0, 1).permute(1, 2, 0).numpy()


def draw(output: Path, image, plans, labels, titles, subject: str) -> None:
    """One row a prompt: the image, then for each word the share of its mass that a patch gets.

    All maps of a row have one scale, in multiples of an even share, so that a word that is sent
    everywhere looks flat.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import TwoSlopeNorm

    columns = 1 + max(len(row) for row in labels)
    figure, axes = plt.subplots(
        len(plans), columns, figsize=(1.5 * columns + 1, 1.9 * len(plans) + 0.4), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis in axes.flat:
        axis.axis("off")
    shares = [T / T.sum(0, keepdim=True) * len(T) for T in plans]
    top = max(1.1, *(float(s.max()) for s in shares))
    scale = TwoSlopeNorm(1, 0, top)  # white is an even share, red more, blue less
    grey = image.mean(-1)
    for row, share, names, title in zip(axes, shares, labels, titles, strict=True):
        row[0].imshow(image)
        row[0].set_title(title, fontsize=9)
        side = round(len(share) ** 0.5)
        for axis, name, column in zip(row[1:], names, share.T, strict=False):
            axis.imshow(grey, extent=(0, side, side, 0), cmap="gray", vmin=0, vmax=1)
            heat = axis.imshow(
                column.reshape(side, side), extent=(0, side, side, 0), cmap="RdBu_r", alpha=0.7,
                norm=scale, interpolation="bicubic",
            )  # fmt: skip
            axis.set_title(name, fontsize=9)
    bar = figure.colorbar(heat, ax=axes, shrink=0.8, pad=0.01)
    bar.set_label("share of the word's mass\n(1 = spread evenly)", fontsize=8)
    figure.suptitle(f"Token-level transport from words to patches, class {subject}", fontsize=10)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=150, format=output.suffix.lstrip(".") or "png")
    plt.close(figure)
    write_output(output, drawn.getvalue())
