"""Train or evaluate one method on one data set; the flags are those of CoOp's train.py."""

import argparse
import errno
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY, build_trainer
from dassl.utils import collect_env_info, set_random_seed, setup_logger

import datasets  # noqa: F401 (registers the data sets)
from trainers.prompting import UserError, extend_cfg
from trainers.prompting.errors import nearest

try:
    import fcntl
    import resource
except ImportError:  # Windows has neither locks of this kind nor a count of its memory
    fcntl = resource = None

ROOT = Path(__file__).parent

# What the system refuses, and what a user can do about it.
REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EACCES: "change its rights",
    errno.EPERM: "change its rights",
    errno.EROFS: "choose another folder",
}


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="", help="folder of the data sets")
    parser.add_argument("--output-dir", default="", help="folder of this run")
    parser.add_argument("--resume", default="", help="folder of the run to continue")
    parser.add_argument("--seed", type=int, default=-1, help="only 0 and above fixes the seed")
    parser.add_argument("--source-domains", nargs="+", help="source domains for DA/DG")
    parser.add_argument("--target-domains", nargs="+", help="target domains for DA/DG")
    parser.add_argument("--transforms", nargs="+", help="data augmentation")
    parser.add_argument("--config-file", default="", help="config of the method")
    parser.add_argument("--dataset-config-file", default="", help="config of the data set")
    parser.add_argument("--trainer", default="", help="name of the method")
    parser.add_argument("--backbone", default="", help="name or file of the CLIP")
    parser.add_argument("--head", default="", help="name of the head")
    parser.add_argument("--eval-only", action="store_true", help="evaluation only")
    parser.add_argument("--model-dir", default="", help="run whose model is evaluated")
    parser.add_argument("--load-epoch", type=int, help="epoch of that model")
    parser.add_argument("--no-train", action="store_true", help="do not call trainer.train()")
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs, e.g. OPTIM.LR 0.01"
    )
    return parser.parse_args(argv)


def setup_cfg(args):
    """Dassl's defaults, then the two files, then the flags, then the KEY VALUE pairs."""
    cfg = get_cfg_default()
    extend_cfg(cfg)
    for path in (args.dataset_config_file, args.config_file):
        if path:
            merge_file(cfg, path)
    flags = {
        "DATASET.ROOT": args.root,
        "OUTPUT_DIR": args.output_dir,
        "RESUME": args.resume,
        "SEED": args.seed,
        "DATASET.SOURCE_DOMAINS": args.source_domains,
        "DATASET.TARGET_DOMAINS": args.target_domains,
        "INPUT.TRANSFORMS": args.transforms,
        "TRAINER.NAME": args.trainer,
        "MODEL.BACKBONE.NAME": args.backbone,
        "MODEL.HEAD.NAME": args.head,
    }
    merge(cfg, {key: value for key, value in flags.items() if value}, "a flag")
    if args.seed == 0:
        cfg.SEED = 0
    opts = args.opts[1:] if args.opts[:1] == ["--"] else args.opts
    if len(opts) % 2:
        raise UserError(f"The pairs at the end are not KEY VALUE: '{' '.join(opts)}'")
    merge(cfg, dict(zip(opts[::2], opts[1::2], strict=True)), "the command line")
    for kind, name, registry in (
        ("trainer", cfg.TRAINER.NAME, TRAINER_REGISTRY),
        ("data set", cfg.DATASET.NAME, DATASET_REGISTRY),
    ):
        names = registry.registered_names()
        if name not in names:
            raise UserError(f"There is no {kind} '{name}': {nearest(name, names)}")
    cfg.freeze()
    return cfg


def merge_file(cfg, path: str) -> None:
    try:
        with open(path, "rb") as file:  # UTF-8, whatever the locale
            tree = yaml.safe_load(file) or {}
    except OSError:
        near = sorted(str(p) for p in Path(path).parent.glob("*.yaml"))
        hint = f"that folder has {', '.join(near)}" if near else "look into configs/"
        raise UserError(f"There is no config file '{path}': {hint}") from None
    except yaml.YAMLError as error:
        raise UserError(
            f"The config file '{path}' is not YAML: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(tree, dict):
        raise UserError(f"The config file '{path}' has no keys: it is to have lines of KEY: VALUE")
    merge(cfg, dict(leaves(cfg, tree)), f"'{path}'")


def leaves(cfg, tree: dict, prefix: str = ""):
    """(dotted key, value) of every entry of a config file."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(cfg, value, f"{prefix}{key}.")
        else:
            yield prefix + str(key), value


def merge(cfg, values: dict, source: str) -> None:
    """Set dotted keys of a cfg.

    Raises:
        UserError: a key is unknown (with the nearest valid one), or a value of the wrong type.
    """
    for key, value in values.items():
        node = cfg
        *path, last = key.split(".")
        for i, part in enumerate([*path, last]):
            if not hasattr(node, "keys") or part not in node:
                where = ".".join(path[:i]) or "the cfg"
                valid = node.keys() if hasattr(node, "keys") else []
                raise UserError(f"{source} sets '{key}', but {where} has no '{part}': "
                                f"{nearest(part, valid)}")  # fmt: skip
            parent, node = node, node[part]
        if isinstance(node, float) and str(value).lstrip("+-").isdigit():
            value = float(value)  # `BETA 1` for 1.0
        if last == "CTX_INIT":  # words, or a list of them, one a prompt
            parent[last] = None
        try:
            parent.merge_from_list([last, value])
        except (ValueError, AssertionError):
            raise UserError(
                f"{source} sets '{key}' to '{value}', but it must be of type {type(node).__name__}"
            ) from None


def versions() -> dict:
    import torchvision

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
    }


def git_commit() -> str:
    """Commit of the code, with `+` when the tree has changes; empty outside a checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def peak_memory_mib() -> float:
    """Of the accelerator when there is one, else of this process; 0 where nobody counts it."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    if resource is None:
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def results_file(cfg) -> Path:
    return Path(cfg.OUTPUT_DIR) / "results.json"


def write_results(cfg, trainer, test_seconds: float) -> None:
    """Write `results.json`; it appears whole, and only when the run is complete."""
    results = dict(trainer.test_results)
    test_set = trainer.dm.dataset.test if cfg.TEST.SPLIT == "test" else trainer.dm.dataset.val
    record = {
        "trainer": cfg.TRAINER.NAME,
        "dataset": cfg.DATASET.NAME,
        "backbone": cfg.MODEL.BACKBONE.NAME,
        "seed": cfg.SEED,
        "shots": cfg.DATASET.NUM_SHOTS,
        "subsample_classes": cfg.DATASET.SUBSAMPLE_CLASSES,
        "split": cfg.TEST.SPLIT,
        "accuracy": float(results["accuracy"]),
        "macro_f1": float(results["macro_f1"]),
        "num_classes": trainer.dm.num_classes,
        "num_test": len(test_set),
        "num_params": getattr(trainer, "num_trained", None),
        "train_seconds": getattr(trainer, "train_seconds", 0.0),
        "test_seconds": test_seconds,
        "peak_memory_mib": peak_memory_mib(),
        "config": yaml.safe_load(cfg.dump()),
        "versions": versions(),
        "git": git_commit(),
    }
    path = results_file(cfg)
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_text(json.dumps(record, indent=1) + "\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder while this one writes there.

    The lock is this process's alone, not that of its data loading workers, and ends with it,
    however it ends.

    Raises:
        UserError: another run is writing there, or the system refuses to write or to read.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "a")  # noqa: SIM115 (open until the end)
    except OSError as error:
        raise UserError(
            f"The output folder '{folder}' cannot be written ({error.strerror}): "
            f"{REMEDIES.get(error.errno, 'choose another --output-dir')}"
        ) from None
    with lock:
        try:
            if fcntl:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):  # else the file system has no locks
                raise UserError(
                    f"The output folder '{folder}' is being written by another run: wait until "
                    "that has ended, or choose another --output-dir"
                ) from None
        try:
            yield
        except OSError as error:
            if error.errno not in REMEDIES:
                raise
            refused = UserError(
                f"'{error.filename or folder}' cannot be written or read ({error.strerror}): "
                f"{REMEDIES[error.errno]}, and the same command goes on from the last checkpoint"
            )
            refused.exit_code = 1
            raise refused from None


def main(args) -> None:
    cfg = setup_cfg(args)
    with output_folder(Path(cfg.OUTPUT_DIR)):
        train_or_evaluate(cfg, args)


def train_or_evaluate(cfg, args) -> None:
    if cfg.SEED >= 0:
        print(f"Setting fixed seed: {cfg.SEED}")
        set_random_seed(cfg.SEED)
    setup_logger(cfg.OUTPUT_DIR)
    print(f"Arguments: {' '.join(sys.argv[1:])}\n\nConfig:\n{cfg}\n")
    print(f"Environment:\n{collect_env_info()}\n")

    trainer = build_trainer(cfg)
    if args.eval_only:
        trainer.load_model(args.model_dir, epoch=args.load_epoch)
        work = trainer.test
    elif not args.no_train:
        work = trainer.train
    else:
        return
    if cfg.OUTPUT_DIR:
        results_file(cfg).unlink(missing_ok=True)  # an earlier run's: this one may break off
    started = time.time()
    work()
    if cfg.OUTPUT_DIR and hasattr(trainer, "test_results"):
        spent = time.time() - started - getattr(trainer, "train_seconds", 0.0)
        write_results(cfg, trainer, spent)


def run(argv=None) -> int:
    """Exit code of the command: a user's mistake is one sentence, without a traceback."""
    if hasattr(sys.stdout, "reconfigure"):  # class names may have letters that a console lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main(parse_args(argv))
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last epoch", file=sys.stderr)
        return 130
    except Exception as error:
        code = getattr(error, "exit_code", None)  # a user's mistake says so, and says it itself
        if code is None:
            raise
        print(f"error: {error}", file=sys.stderr)
        return code
    return 0


if __name__ == "__main__":
    sys.exit(run())
