"""The decisions of scripts/card_benchmark.sh between two calls of `python -m benchmark`.

    python -m tools.card wider RECORD SPACE      one rate more, where the best is at an edge
    python -m tools.card finalists RECORD SPACE  the best two settings
    python -m tools.card variants CONFIG FOLDER  ALIGN without what makes it ALIGN

RECORD is the .json that `python -m benchmark tune` writes for a method. The first two write SPACE,
a file for its `--space`, the last a config file for each variant. `wider` prints `done` and writes
nothing where no rate is missing.
"""

import argparse
import json
import math
from pathlib import Path

import yaml

RATE = "OPTIM.LR"
MOST = 3  # rates more than the space has; then the edge is taken and reported
VARIANTS = {  # of ALIGN, with the keys of its node in which each differs
    "beta0": {"BETA": 0.0},
    "uniform": {"PLAN": "uniform"},
    "one_prompt": {"M": 1, "N": 1, "CTX_INIT": "a photo of a"},
}


def read(path):
    """The settings of a record, the best first and those that failed last; how many did not fail.

    Values are as YAML has them.
    """
    found = json.loads(Path(path).read_text())["settings"]
    settings = [
        {key: float(v) if key == RATE else yaml.safe_load(v) for key, v in one["setting"].items()}
        for one in found
    ]
    return settings, sum(one["average"] is not None for one in found)


def missing_rate(settings):
    """The rate beyond the best setting's in steps of three, or None where both sides were tried.

    Args:
        settings: all that were tried, the best first. A rate that failed was tried.
    """
    best = settings[0]
    alike = [s[RATE] for s in settings if {**s, RATE: 0} == {**best, RATE: 0}]
    if len(settings) >= 6 + MOST:
        return None
    if best[RATE] == max(alike):
        return step(best[RATE], 1)
    return step(best[RATE], -1) if best[RATE] == min(alike) else None


def step(rate, by):
    """The next rate of 0.001, 0.003, 0.01, ... in a direction."""
    place = round(2 * math.log10(rate)) + by
    return float(f"{(1, 3)[place % 2]}e{place // 2}")


def as_space(settings):
    """The text of a space of exactly these settings."""
    grids = [{key: [value] for key, value in setting.items()} for setting in settings]
    return yaml.safe_dump(grids, sort_keys=False)


def write_variants(config, folder):
    """Write a config file for each variant of ALIGN as its config file has it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, keys in VARIANTS.items():
        tree = yaml.safe_load(config.read_text())
        tree["TRAINER"]["ALIGN"] |= keys
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


def main(argv=None):
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("command", choices=["wider", "finalists", "variants"])
    parser.add_argument("path", type=Path, metavar="RECORD|CONFIG")
    parser.add_argument("output", type=Path, metavar="SPACE|FOLDER")
    args = parser.parse_args(argv)
    if args.command == "variants":
        write_variants(args.path, args.output)
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
