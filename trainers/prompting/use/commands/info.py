"""Say what a method, a CLIP or a run is.

Of a method: what its class says, its paper and its keys. Of a CLIP, by name, file or folder
(`emoji` is the embedded one): which methods run on it. Of a run, by its folder: classes, backbone,
settings, and accuracy if it has a record.
"""

import argparse
import inspect
import json
import os
import shlex
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from ...checkpoint.identity import Identity, differences, in_words
from ...errors import UserError, nearest, need, printable
from ...plugins import load_plugins
from ...storage.hub import START, fetch_run
from ...storage.run_record import RECORD, BadRecord, main_metric, read_record
from ...storage.run_record import RUN as IDENTITY
from .arguments import Parser, add_plugin, from_one, write_output
from .load import RUN

SEVERAL = {
    "ranks": "Several labels an image: its scores order images within a class",
    "decides": "Several labels an image: sigmoids of its logits are probabilities",
}
SHOWN = 8  # class names in the text
CARD = """\
---
library_name: promptedclip
pipeline_tag: image-classification
tags: [clip, prompt-learning, {method}]
---
# {method}{on}

```
{summary}
```

To classify images with it (`pip install git+URL` of the project ALIGN, and `huggingface_hub`):

```bash
promptedclip predict --model-dir {name}{more} IMAGE
```

```python
from promptedclip import load_run

run = load_run("{name}"{plugins})
```

Classes, in the order of the logits:

{classes}
"""


def main(argv: list[str], prog: str) -> int:
    """Run the command and return its exit code; without a name, list the methods."""
    from ...method import METHODS

    args = build_parser(prog).parse_args(argv)
    load_plugins(args.plugin)
    if args.name:
        show(args)
    else:
        for name, kind in sorted(METHODS.items()):
            print(f"{name:20}{own_text(kind).partition(chr(10))[0]}")
    return 0


def build_parser(prog: str) -> Parser:
    """Return the parser of the command."""
    parser = Parser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("name", metavar="METHOD|CLIP|RUN", nargs="?", help=f"a run is an {RUN}")
    add("--load-epoch", type=from_one,
        help="epoch of a run (default: the best if kept, else the last)")  # fmt: skip
    add("--format", default="text", choices=("text", "json"),
        help="of a run (default: %(default)s)")  # fmt: skip
    add("--card", nargs="?", const="USER/REPO", metavar="USER/REPO",
        help="write README.md into the folder of a run, which the hub will show")  # fmt: skip
    add_plugin(parser)
    return parser


def show(args: argparse.Namespace) -> None:
    """Print what is asked of a method, a CLIP or a run; its plug-ins are loaded."""
    from ...method import METHODS

    name = args.name
    if is_run(name):
        summary = describe(name, args.load_epoch, args.plugin)
        if args.card:
            write_card(name, args.card, summary)
        else:
            print(json.dumps(summary, indent=1) if args.format == "json" else as_text(summary))
        return
    flags = {"--card": args.card, "--load-epoch": args.load_epoch}
    flags[f"--format {args.format}"] = args.format != "text"
    for flag in (flag for flag, given in flags.items() if given):
        raise UserError(f"{flag} is for runs, and '{name}' is not the folder of one: leave it out")
    print(describe_method(name) if name in METHODS else "\n".join(describe_clip(name)))


def is_run(name: str) -> bool:
    """Return True for the folder of a run, also on the hub, and for one that has runs inside.

    `emoji` and names of methods are no folders: `./emoji` is.
    """
    from ...method import METHODS

    folder = Path(name)
    if name == "emoji" or name in METHODS:
        return False
    if name.startswith(START):
        return True
    marks = ("*/checkpoint", "*/model.pth*", "*/model-*.pth*", RECORD, f"*/{RECORD}")
    return any(any(folder.glob(mark)) for mark in marks)


def describe_method(method: str) -> str:
    """Return what is known of a method: its docstring, paper, file, and keys with defaults."""
    from ...method import find_method

    kind = find_method(method)
    keys = [f"  {kind.place(key)} {value!r}" for key, value in kind.defaults.items()]
    file = f"File: {inspect.getsourcefile(kind)}"
    lines = [method, "", own_text(kind), "", paper(kind), file]
    if kind.several:
        lines.append(SEVERAL[kind.several])
    return "\n".join([*lines, "Keys, with their defaults:", *keys])


def own_text(kind: type) -> str:
    """Return what the class of a method says itself, not what its base class does."""
    return inspect.cleandoc(kind.__doc__ or "")


def paper(kind: type) -> str:
    """Return what the module of a method says of its paper."""
    text = inspect.getdoc(sys.modules[kind.__module__]) or ""
    return " ".join(" ".join(text.split("\n\n")[:2]).split())


def describe_clip(name: str) -> list[str]:
    """Return lines on which methods run on a CLIP, named as `--backbone` takes it.

    Weights and tokenizer of `open_clip:ARCHITECTURE` need not be on this machine.
    """
    from ... import load_clip
    from ...backbones import check_known, openclip
    from ...building.build import methods_on
    from ...encoders.sides import kinds
    from ...method import METHODS

    architecture = name.removeprefix(openclip.PREFIX)
    if name.startswith(openclip.PREFIX) and "/" not in architecture:
        clip_model: Any = openclip.without_weights(architecture)
    else:
        try:
            check_known(name)
        except UserError as error:
            raise UserError(
                f"'{name}' is neither a run nor a method ({nearest(name, METHODS)}). As a CLIP: "
                f"{error}"
            ) from None
        clip_model = load_clip(name)
    reasons = methods_on(clip_model)
    run = [method for method, reason in reasons.items() if not reason]
    image, text = kinds(clip_model)
    lines = [f"{name}: image side {image}, text side {text}", f"Run: {', '.join(run)}"]
    groups = defaultdict(list)
    for method, reason in reasons.items():
        groups[reason].append(method)
    return lines + [
        f"{', '.join(methods)}: {reason}" for reason, methods in groups.items() if reason
    ]


def describe(folder: str, epoch: int | None = None, plugins: list[str] | None = None) -> dict:
    """Return what is known of a run from its checkpoint and its record, without its backbone."""
    from ...checkpoint.saved import Saved
    from ..run import calibration_of

    run = fetch_run(folder)
    load_plugins(plugins or ())
    saved = Saved.of_run(run, epoch)
    settings = saved.identity.cfg_keys
    calibration = calibration_of(saved, list(saved.classnames))
    none = f"no --error of `predict`, as the run is not calibrated: {calibration}"
    if saved.thresholds:
        sure = " and those of --sure" * (saved.thresholds["sure"] is not None)
        none = f"tags of `predict`, by the thresholds of the run{sure}"
    return {
        "method": saved.trainer,
        "classnames": list(saved.classnames),
        "backbone": saved.backbone,
        "dataset": settings.get("DATASET.NAME", ""),
        "shots": settings.get("DATASET.NUM_SHOTS"),
        "seed": settings.get("SEED"),
        "checkpoint": saved.place,
        "epoch": saved.epoch,
        "plugins": list(saved.plugins or ()),
        "settings": settings,
        "answers": none if isinstance(calibration, str) else calibration.promise(0.05),
        "changed": sorted(_changed_keys(saved.trainer, settings)),
        "record": _record(run, saved.identity),
    }


def _changed_keys(method: str, settings: dict[str, Any]) -> list[str]:
    """Return the keys whose value is not a default of Dassl or the method."""
    from ...checkpoint.keys import KEYS
    from ...method import METHODS

    defaults = {key: one.default for key, one in KEYS.items()}
    if own := METHODS.get(method):  # methods share keys with different defaults
        defaults |= {own.place(key): default for key, default in own.defaults.items()}
    plain = {key: list(v) if isinstance(v, tuple) else v for key, v in defaults.items()}
    return [key for key, value in settings.items() if key not in plain or plain[key] != value]


def _record(folder: Path, run: Identity) -> dict[str, Any] | None:
    """Return the numbers of the run's last evaluation; None without a record."""
    remedy = "repeat the run, or remove that file"
    try:
        record = read_record(folder)
    except BadRecord as error:
        raise UserError(f"{error}: {remedy}") from None
    if not record:
        return record
    path = folder / RECORD
    of = Identity.of(record.get("run") or {}, f"'{path}'", remedy)
    texts = differences(of, run, ("settings", "training", "clip")) if of.method else ()
    need(not texts, f"'{path}' is of another run than {IDENTITY} ({in_words(texts)}): {remedy}")
    own = ("several", "map") if record.get("several") else ("accuracy", "macro_f1")
    keys = (*own, "dataset", "subsample_classes", "split", "num_test")
    return {key: record.get(key) for key in keys}


def shots_text(shots: int | None) -> str:
    """Return what was trained on: so many shots, or all images without DATASET.NUM_SHOTS."""
    if shots is None or shots < 1:
        return "all training images"
    return f"{shots} shot{'s' * (shots > 1)}"


def as_text(summary: dict[str, Any]) -> str:
    """Return a line for each fact, and the settings that are not defaults."""
    names = summary["classnames"]
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    lines = {
        "Method": summary["method"],
        "Classes": f"{len(names)}: {', '.join(names[:SHOWN])}{more}",
        "Backbone": summary["backbone"],
        "Data": f"{summary['dataset']}, {shots_text(summary['shots'])}, seed {summary['seed']}",
        "Checkpoint": f"{summary['checkpoint']}, epoch {summary['epoch']}",
        **_result(summary["record"]),
        "Answers": summary["answers"],
    }
    if summary["plugins"]:
        lines["Plug-ins"] = ", ".join(summary["plugins"])
    texts = [printable(f"{title + ':':12}{text}") for title, text in lines.items()]
    settings = [printable(f"  {key} {summary['settings'][key]}") for key in summary["changed"]]
    return "\n".join([*texts, "Settings that are not defaults (--format json has all):", *settings])


def _result(record: dict[str, Any] | None) -> dict[str, str]:
    if record is None:
        return {"Accuracy": f"unknown: the folder has no {RECORD}"}
    key = main_metric(record)
    text = (
        f"{record[key]:.2f}% of {record['num_test']} images ({record['dataset']}, "
        f"{record['split']}, {record['subsample_classes']} classes)"
    )
    return {"mAP" if key == "map" else "Accuracy": text}


def write_card(folder: str, repository: str, summary: dict[str, Any]) -> None:
    """Write the README.md of a run for the hub, and print the command that publishes the run.

    `repository` is where it will be published, USER/REPO.
    """
    path = Path(folder) / "README.md"
    need(not path.exists(), f"'{path}' already exists: remove it to write another")
    write_output(path, card(summary, f"{START}{repository}"))
    words = ["hf", "upload", repository, folder, "."]
    for name in (path.name, RECORD, IDENTITY, "*/model*"):
        words += ["--include", name]
    print(f"{path}\nTo publish this run:\n{shlex.join(words)}")


def card(summary: dict[str, Any], name: str) -> str:
    """Return the README of a run on the hub; paths of this machine are left out."""
    shown = {
        **summary,
        "backbone": _last(summary["backbone"]),
        "checkpoint": _last(summary["checkpoint"]),
        "plugins": [_last(plugin) for plugin in summary["plugins"]],
        "settings": {key: _last(value) for key, value in summary["settings"].items()},
    }
    plugins = f", plugins={shown['plugins']}" if shown["plugins"] else ""
    return CARD.format(
        method=summary["method"],
        on=f" on {summary['dataset']}" if summary["dataset"] else "",
        summary=as_text(shown),
        name=name,
        more="".join(f" --plugin {plugin}" for plugin in shown["plugins"]),
        plugins=plugins,
        classes=", ".join(f"`{printable(name)}`" for name in summary["classnames"]),
    )


def _last(value: Any) -> Any:
    """Return the name of a file whose path is absolute; any other value as it is."""
    path = isinstance(value, str) and os.path.isabs(value)
    return os.path.basename(value) if path else value
