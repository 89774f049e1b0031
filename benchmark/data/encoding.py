"""Write files of features of data sets under a CLIP, for methods that read no more (features.md).

A file is written in chunks: a repeated command goes on where the last one has ended. A finished
file is left as it is.

Letters: n images, D the width of features, K classes, V views.
"""

import functools
import hashlib
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from trainers.prompting import __version__
from trainers.prompting.errors import UserError

from ..cli import Parser, add_plugin, each, from_one, from_zero, seed
from ..protocols.configs import Roots, check_datasets, dataset_class, use_plugins
from .feature_file import check_complete, made_of, path_of, sentence_files

if TYPE_CHECKING:
    import torch

CHUNK = 512  # images of a part of the file
AUGMENTED = ["random_resized_crop", "random_flip", "normalize"]  # of views, as methods train


def main(argv: list[str]) -> int:
    """Run `python -m benchmark features`."""
    parser = Parser(prog="python -m benchmark features", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("names", nargs="+", metavar="DATASET", help="data sets, by their names in configs/datasets")
    add("--backbone", default="ViT-B/16", help="name or file of the CLIP (default: %(default)s)")
    add("--root", default=os.environ.get("DATA", ""), help="folder of the data sets")
    add("--output", type=Path, default=Path("features"), help="folder of the files")
    add("--classes-at", type=int, choices=[1, 2], default=0, metavar="LEVEL",
        help="of your own images, as for advise")  # fmt: skip
    add("--templates", nargs="+", default=[], metavar="TEXT",
        help="further templates, each with {} for the class name")  # fmt: skip
    add("--sentences", nargs="+", default=[], metavar="FILE",
        help="also JSON files of sentences about the classes, or clip7 and clip80")  # fmt: skip
    add("--half", action="store_true", help="write half precision")
    add("--views", type=from_zero, default=0, metavar="V",
        help="also V augmentations of the training images that runs draw")  # fmt: skip
    add("--shots", type=each(from_one), default="16", help="of those runs (default: %(default)s)")
    add("--seeds", type=each(seed), default="1 2 3", help="of those runs (default: %(default)s)")
    add("--redo", action="store_true", help="replace finished files that differ from what is asked")
    add("--batch", type=from_one, default=100, help="images at a time (default: %(default)s)")
    add_plugin(parser)
    args = parser.parse_args(argv)
    from trainers.prompting.plugins import load_plugins  # with PyTorch

    use_plugins(args.plugin)
    load_plugins(args.plugin)
    check_datasets(args.names)
    for template in args.templates:
        if template.count("{}") != 1:
            raise UserError(f"--templates: '{template}' must have one {{}}, for the class name")
    import torch

    from trainers.prompting import load_clip

    @functools.cache
    def clip_model() -> Any:
        return load_clip(args.backbone).to("cuda" if torch.cuda.is_available() else "cpu")

    root = os.path.abspath(os.path.expanduser(args.root)) if args.root else None
    roots = Roots(root and Path(root))
    roots.check_apart(args.names)
    for name in args.names:
        args.root = roots.root_of_set(name) or ""
        if "=" in name and roots.given_root(name) == roots.root:
            folder = Path(args.root, name.partition("=")[2])
            print(f"Note: {name} is read from '{args.root}': no class folders are in '{folder}'")
        print(write(name, clip_model, args))
    return 0


class Source(NamedTuple):
    """A data set: its class, folder, train, val and test, all images once, in order, and hash."""

    cls: Any
    folder: Path
    parts: Sequence[list]
    items: list
    fingerprint: str

    @property
    def classnames(self) -> list[str]:
        """The names by label."""
        names: list[str] = self.cls.names_of(self.parts[0] or self.parts[2])
        return names


def write(name: str, load: Callable[[], Any], args: Any) -> str:
    """Write the file of a data set, unless it is complete, and return a sentence that says so.

    `load` returns the CLIP, on its device.
    """
    import torch

    from datasets.contents import note_transparent
    from datasets.splits import PARTS
    from trainers.prompting.backbones import absolute
    from trainers.prompting.storage.features import write_features

    source = source_of(name, args.root, args.classes_at)
    path = path_of(args.output, name, args.backbone)
    row = {item.impath: i for i, item in enumerate(source.items)}
    drawn = draws(source, args) if args.views and not source.cls.only_tested else []
    views_of = [row[item.impath] for item in drawn]
    if os.path.lexists(path) and not args.redo:
        asked = templates(source, args.templates)
        check_complete(path, source.fingerprint, asked, views_of, args)
        return f"'{path}' is complete"
    if not source.cls.embedded:
        note_transparent(source.items)
    args.output.mkdir(parents=True, exist_ok=True)
    clip_model = load()
    encoder = Encoder(clip_model, source, args)
    parts = [[], [], source.parts[2]] if source.cls.only_tested else source.parts
    tensors = texts(clip_model, source, args.templates) | sentences(clip_model, source, args)
    tensors |= {
        "image": encoder.encode("image", source.items, encoder.plain),
        "label": torch.tensor(
            [item.label for item in source.items],
            dtype=torch.int8 if source.cls.several else torch.int64,
        ),
    }
    if drawn:
        encoded = [
            encoder.encode(f"view {v + 1} of {args.views}", drawn, encoder.augmented, v)
            for v in range(args.views)
        ]
        tensors |= {"views": torch.stack(encoded), "views_of": torch.tensor(views_of)}
    header = {
        "classnames": source.classnames,
        "split": {
            part: [row[item.impath] for item in items]
            for part, items in zip(PARTS, parts, strict=True)
        },
        "images": [os.path.relpath(item.impath, source.folder) for item in source.items],
        "logit_scale": float(clip_model.logit_scale.exp()),
        "normalised": False,
        "template": own_template(source),
        "sentence_files": sentence_files(args),
        "clip": absolute(args.backbone),
        "dataset": source.cls.rows_of or source.cls.__name__,
        "made_of": made_of(source.fingerprint, args.backbone),
        "transform": f"Resize {encoder.plain.images.resize} -> CenterCrop -> ToTensor -> Normalize",
        "versions": {"align": __version__, "torch": torch.__version__,
                     "python": platform.python_version()},
    }  # fmt: skip
    for key, value in tensors.items():
        if args.half and value.is_floating_point():
            tensors[key] = value.half()
    write_features(path, tensors, header)
    encoder.forget()
    return f"Written: {path}"


def source_of(name: str, root: str, classes_at: int = 0) -> Source:
    """Return a data set; raises UserError as a run would."""
    from datasets import contents

    cls = dataset_class(name).kind(SimpleNamespace(ROOT=root or ""))
    folder, parts = cls.look(root, CLASSES_AT=classes_at)
    cls.check_labels(*parts)
    keys = contents.read_keys(parts)
    contents.check_copies(cls, folder, parts, keys)
    fingerprint = contents.fingerprint(contents.division(folder, parts, keys))
    fingerprint += " upright" * cls.upright
    items = {item.impath: item for item in chain(*parts)}
    return Source(cls, Path(folder), parts, [*items.values()], fingerprint)


def own_template(source: Source) -> str:
    """Return the sentence of zero-shot CLIP on a data set."""
    from trainers.prompting.encoders.class_text import zero_shot_template

    return zero_shot_template(source.cls.__name__)


def templates(source: Source, more: Sequence[str]) -> list[str]:
    """Return the templates that methods read, and others, each once."""
    from trainers.prompting.encoders.templates import DEFAULT, IMAGENET

    return [*dict.fromkeys([own_template(source), DEFAULT, *IMAGENET, *more])]


def texts(clip_model: Any, source: Source, more: Sequence[str]) -> dict[str, "torch.Tensor"]:
    """Return text features (K, D) of the templates, by name."""
    from trainers.prompting.teacher import Teacher

    return {
        f"text/{template}": Teacher(clip_model, source.classnames, [template]).raw.cpu()
        for template in tqdm(templates(source, more), "Sentences", leave=False, disable=None)
    }


def sentences(clip_model: Any, source: Source, args: Any) -> dict[str, "torch.Tensor"]:
    """Return features (S, D) of each set of sentences, and the classes (S,) that they are about."""
    from trainers.prompting.encoders.descriptions import Asked, describe

    tensors: dict[str, torch.Tensor] = {}
    for name, given in zip(sentence_files(args), args.sentences, strict=True):
        text = describe(Asked(given), source.classnames, clip_model)
        print(f"Sentences: {text.note}")
        tensors[f"sentence/{name}"] = text.each(clip_model).cpu().flatten(0, -2)
        tensors[f"sentence_of/{name}"] = text.owners()
    return tensors


def draws(source: Source, args: Any) -> list:
    """Return the training images that runs with these shots and seeds draw, each once."""
    drawn: dict[str, Any] = {}
    for shots in args.shots:
        for number in args.seeds:
            node = {"ROOT": args.root, "NUM_SHOTS": shots, "SUBSAMPLE_CLASSES": "all",
                    "CLASSES_AT": args.classes_at}  # fmt: skip
            cfg = SimpleNamespace(DATASET=SimpleNamespace(**node), SEED=number)
            drawn |= {item.impath: item for item in source.cls(cfg).train_x}
    return [item for item in source.items if item.impath in drawn]


def rows_in(file: Path) -> "torch.Tensor | None":
    """Return the rows of a chunk; None if it is missing."""
    from safetensors.torch import load_file

    return load_file(file)["rows"] if file.exists() else None


class Encoder:
    """Encodes images with a CLIP, on its device, chunk by chunk; chunks that exist are read."""

    def __init__(self, clip_model: Any, source: Source, args: Any):
        from dassl.config import get_cfg_default
        from dassl.data.transforms import build_transform

        from trainers.prompting.building.encoding import plain_encoder
        from trainers.prompting.building.transforms import Plain, of_training

        self.method, images = plain_encoder(clip_model)
        self.plain, cfg = Plain(images), get_cfg_default()
        cfg.VERBOSE, cfg.INPUT.SIZE = False, (images.size, images.size)
        cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD = [*images.mean], [*images.std]
        cfg.INPUT.INTERPOLATION, cfg.INPUT.TRANSFORMS = images.interpolation, AUGMENTED
        self.augmented = of_training(build_transform(cfg, is_train=True), images)
        self.title, self.batch = source.cls.__name__, args.batch
        self.upright = source.cls.upright
        content = made_of(source.fingerprint, args.backbone)
        parts = [content, args.backbone, str(images), str(args.half)]
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
        self.folder = args.output / f".{self.title}-{digest}"
        self.half = args.half

    def encode(
        self, what: str, items: list, transform: Callable[..., Any], view: int | None = None
    ) -> "torch.Tensor":
        """Return features (n, D); with a view, each image is augmented by a seed of its own."""
        import torch
        from safetensors.torch import save

        from trainers.prompting.storage.files import write_whole

        self.folder.mkdir(exist_ok=True)
        bar = tqdm(total=len(items), desc=f"{self.title}, {what}", unit="image", disable=None)
        chunks = []
        with bar:
            for start in range(0, len(items), CHUNK):
                some = items[start : start + CHUNK]
                digest = hashlib.sha256(
                    "\0".join(item.impath for item in some).encode()
                ).hexdigest()
                file = (
                    self.folder / f"{'plain' if view is None else view}-{digest[:12]}.safetensors"
                )
                rows = rows_in(file)
                if rows is None:
                    rows = torch.cat([*self._batches(some, transform, view, bar)])
                    rows = rows.half() if self.half else rows
                    write_whole(file, save({"rows": rows}))
                else:
                    bar.update(len(some))
                chunks.append(rows)
        return torch.cat(chunks)

    def _batches(self, items, transform, view, bar) -> Iterator["torch.Tensor"]:
        """Yield features of one batch after another."""
        from dassl.utils import read_image

        from trainers.prompting.building.encoding import encode_images
        from trainers.prompting.images.image_files import upright
        from trainers.prompting.running.seeding import seeded

        def read(item):
            image = read_image(item.impath)
            image = upright(image) if self.upright else image
            return transform(image) if view is None else image

        def augment(item, image):
            digest = hashlib.sha256(f"{view} {os.path.basename(item.impath)}".encode()).digest()
            with seeded(int.from_bytes(digest[:4], "little")):
                return transform(image)

        finish = {} if view is None else {"finish": augment}
        for batch, _, z in encode_images(self.method, items, read, self.batch, **finish):
            bar.update(len(batch))
            yield z

    def forget(self) -> None:
        """Remove the chunks."""
        shutil.rmtree(self.folder, ignore_errors=True)
