"""Make the decisions of scripts/card_benchmark.sh between two calls of `python -m benchmark`.

    python -m tools.card wider RECORD SPACE      one more learning rate, if the best is at an edge
    python -m tools.card finalists RECORD SPACE  the best two settings
    python -m tools.card variants CONFIG FOLDER  ALIGN without each of its distinctive parts
    python -m tools.card plans CONFIG SPACE      the settings to try of transport plans
    python -m tools.card families RECORD FOLDER  the best setting of each family of plans
    python -m tools.card archive RUNS FILE       what is kept of finished runs, as .tar.xz

RECORD is the .json that `python -m benchmark tune` writes for a method, next to the config file of
the best setting. Three commands write SPACE, a file for its `--space`, two a config file for each
variant or family. `wider` prints `done` and writes nothing if no rate is missing. `families` prints
two names: the best family that transports, and its counterpart with a uniform plan. `archive`
keeps records and predictions. To be small, it keeps of predictions the likeliest class of an image
only, and rounds probabilities to four binary digits; accuracies and their intervals stay the same.
"""

import argparse
import io
import json
import math
import sys
import tarfile
from pathlib import Path

import numpy as np
import yaml

from benchmark.cli import write_output
from benchmark.pack.pack import packed
from benchmark.report.packs import MANIFEST
from recipe.predictions import NAME as PREDICTIONS
from recipe.predictions import arrays_in

RATE = "OPTIM.LR"
MOST = 3  # learning rates added to the space at most; then the edge is chosen and reported
VARIANTS = {  # variants of ALIGN, with the keys of its node in which each differs
    "beta0": {"BETA": 0.0},
    "uniform": {"PLAN": "uniform"},
    "one_prompt": {"M": 1, "N": 1, "CTX_INIT": "a photo of a"},
}
NODE = "TRAINER.ALIGN."
COMMANDS = ["wider", "finalists", "variants", "plans", "families", "archive"]
FAMILIES: dict[
    str, dict[str, list]
] = {  # families of plans, with the values to try for keys of ALIGN's node
    "plan_sinkhorn": {"PLAN": ["sinkhorn"], "LAMBDA": [0.003, 0.01, 0.1]},
    "plan_uniform": {"PLAN": ["uniform"]},
    "plan_values": {"PLAN": ["sinkhorn"], "PATCHES": ["values"], "LAMBDA": [0.01, 0.1]},
    "plan_values_uniform": {"PLAN": ["uniform"], "PATCHES": ["values"]},
    "plan_unbalanced": {"PLAN": ["unbalanced"], "RHO": [0.03], "LAMBDA": [0.01, 0.1]},
    "plan_scaled": {"PLAN": ["scaled"], "LAMBDA": [0.3, 1.0]},
    "plan_pooled": {"PLAN": ["pooled"]},
}
TWO_RATES = ("plan_sinkhorn", "plan_uniform")  # tried with ALIGN's rate and the next lower one


def read(path):
    """Return the settings of a record, best first and failed ones last, and how many did not fail.

    Values have the types of YAML.
    """
    found = json.loads(Path(path).read_text())["settings"]
    settings = [
        {key: float(v) if key == RATE else yaml.safe_load(v) for key, v in one["setting"].items()}
        for one in found
    ]
    return settings, sum(one["average"] is not None for one in found)


def missing_rate(settings):
    """Return the untried rate next to the best setting's, a factor of three up or down.

    None if both neighbours were tried, or if MOST rates have been added.

    Args:
        settings: all that were tried, also those that failed, the best first.
    """
    best = settings[0]
    alike = [s[RATE] for s in settings if {**s, RATE: 0} == {**best, RATE: 0}]
    if len(settings) >= 6 + MOST:
        return None
    if best[RATE] == max(alike):
        return step(best[RATE], 1)
    return step(best[RATE], -1) if best[RATE] == min(alike) else None


def step(rate, by):
    """Return the next rate in 0.001, 0.003, 0.01, ...; `by` is 1 for up and -1 for down."""
    place = round(2 * math.log10(rate)) + by
    return float(f"{(1, 3)[place % 2]}e{place // 2}")


def as_space(settings):
    """Return the text of a search space with exactly these settings."""
    grids = [{key: [value] for key, value in setting.items()} for setting in settings]
    return yaml.safe_dump(grids, sort_keys=False)


def write_variants(config, folder):
    """Write a config file for each variant of ALIGN, from ALIGN's config file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, keys in VARIANTS.items():
        tree = yaml.safe_load(config.read_text())
        tree["TRAINER"]["ALIGN"] |= keys
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


def space_of_plans(config):
    """Return the text of a search space of all families, with the rate of ALIGN's config file."""
    rate = yaml.safe_load(config.read_text())["OPTIM"]["LR"]
    grids = []
    for name, keys in FAMILIES.items():
        rates = [rate, step(rate, -1)] if name in TWO_RATES else [rate]
        grids.append({RATE: rates} | {NODE + key: values for key, values in keys.items()})
    return yaml.safe_dump(grids, sort_keys=False)


def family_of(setting):
    """Return the family that a setting belongs to."""
    own = {key.removeprefix(NODE): value for key, value in setting.items() if key != RATE}
    return next(
        name
        for name, keys in FAMILIES.items()
        if keys.keys() == own.keys() and all(own[key] in keys[key] for key in own)
    )


def write_families(record, folder):
    """Write a config file with the best setting of each family; return (best, its uniform plan).

    The best is the family with the highest accuracy among those that transport.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tree = yaml.safe_load(record.with_suffix(".yaml").read_text())
    best: dict[str, dict] = {}
    settings, sound = read(record)
    for setting in settings[:sound]:
        best.setdefault(family_of(setting), setting)  # they come best first
    for name, setting in best.items():
        of_the_best = ("PLAN", "PATCHES", "RHO", "LAMBDA")
        node = {k: v for k, v in tree["TRAINER"]["ALIGN"].items() if k not in of_the_best}
        node |= {k.removeprefix(NODE): v for k, v in setting.items() if k != RATE}
        own = tree | {"OPTIM": tree["OPTIM"] | {"LR": setting[RATE]}, "TRAINER": {"ALIGN": node}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(own, sort_keys=False))
    first = next(n for n in best if "uniform" not in n and n != "plan_pooled")
    return first, "plan_values_uniform" if first == "plan_values" else "plan_uniform"


def write_archive(runs, file):
    """Write the records and the smaller predictions of all finished runs below a folder."""
    files, left_out = packed(runs)
    for folder, why in left_out.items():
        print(f"left out: {folder}: {why}", file=sys.stderr)
    del files[MANIFEST]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz", preset=9) as tar:
        for name, content in files.items():
            if name.endswith(PREDICTIONS):
                content = smaller(content)
            info = tarfile.TarInfo(f"{runs.name}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    write_output(file, stream.getvalue())


def smaller(content):
    """Return a predictions.npz with rounded probabilities, of the likeliest class only."""
    kept = {}
    for name, array in arrays_in(content).items():
        if name == "mcm" or "scaled" in name:
            continue
        if array.dtype.kind == "f":
            mantissa, exponent = np.frexp(array)
            array = np.ldexp(np.round(mantissa * 16) / 16, exponent).astype(array.dtype)
        kept[name] = array[:, :1] if array.ndim == 2 else array
    stream = io.BytesIO()
    # not compressed: the archive compresses what its runs share
    np.savez(stream, **kept)  # type: ignore[arg-type]
    return stream.getvalue()


def main(argv=None):
    """Run the command that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("path", type=Path, metavar="RECORD|CONFIG|RUNS")
    parser.add_argument("output", type=Path, metavar="SPACE|FOLDER|FILE")
    args = parser.parse_args(argv)
    if args.command == "archive":
        write_archive(args.path, args.output)
        return
    if args.command == "variants":
        write_variants(args.path, args.output)
        return
    if args.command == "families":
        print(*write_families(args.path, args.output))
        return
    if args.command == "plans":
        args.output.write_text(space_of_plans(args.path))
        return
    settings, sound = read(args.path)
    if args.command == "finalists":
        settings = settings[: min(2, sound)]
    elif (rate := missing_rate(settings)) is None:
        print("done")
        return
    else:
        settings.append({**settings[0], RATE: rate})
    args.output.write_text(as_space(settings))


if __name__ == "__main__":
    main()
