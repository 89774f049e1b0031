"""Do one run: folder, log, seed, training or evaluation, results, exit code."""

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from dassl.engine import build_trainer
from dassl.utils import collect_env_info, set_random_seed, setup_logger

from trainers.prompting.checkpoint.files import find_checkpoint, saved_epochs
from trainers.prompting.checkpoint.identity import in_groups, leaves, unlike
from trainers.prompting.conformance.stamp import check_once
from trainers.prompting.errors import UserError, need
from trainers.prompting.plugins import code_of
from trainers.prompting.record.results import (
    Evaluation,
    peak_in_record,
    remove_results,
    write_results,
)
from trainers.prompting.running.devices import device_name, idle_gpus
from trainers.prompting.running.memory import gpu_is_full

from .begun import check_begun, note_begun
from .configs import prompts_for, read_pairs
from .folder import check_apart, output_folder
from .settings import cfg_text, changed_settings, unread_note

ROOT = Path(__file__).resolve().parents[1]
NEXT = " \\\n    "  # continues a command on the next line


def do_run(cfg, args) -> None:
    """Do one run in its folder and write its results; raises UserError if memory is short."""
    try:
        _do_run(cfg, args)
    except Exception as error:
        if lacking := short_of_memory(error):
            raise UserError(
                f"the {lacking} has too little memory: lower DATALOADER.TRAIN_X.BATCH_SIZE, or "
                "DATALOADER.TEST.BATCH_SIZE if this was an evaluation",
                exit_code=1,
            ) from error
        raise


def _do_run(cfg, args) -> None:
    check_apart(cfg)
    trains = not (args.eval_only or args.no_train)
    need(
        not (args.eval_only and any(Path(cfg.OUTPUT_DIR).glob("*/checkpoint"))),
        f"--output-dir '{cfg.OUTPUT_DIR}' holds a training, whose record the evaluation would "
        "replace: give another --output-dir",
    )
    with output_folder(Path(cfg.OUTPUT_DIR)):
        edited = check_begun(cfg) if trains else []
        setup_run(cfg)
        if cfg.TRAINER.UNREAD:
            print(unread_note(cfg))
        if keys := prompts_for(args.backbone, args.config_file):
            print(f"{args.backbone}.yaml replaces for this backbone: {', '.join(keys)}")
        checked = check_once(cfg) if trains else None
        trainer = build_trainer(cfg)  # with its data
        code = code_of(getattr(trainer, "kind", type(trainer)))
        earlier = peak_in_record(cfg) if trains else None
        train_or_evaluate(trainer, args, lambda: note_begun(cfg, code, edited))
        tested = args.eval_only or not (args.no_train or cfg.TEST.NO_TEST)
        if cfg.OUTPUT_DIR and (tested or hasattr(trainer, "test_results")):
            of_method = hasattr(trainer, "evaluation")
            other = {"code": code, "edited": edited}
            last = trainer.evaluation() if of_method else Evaluation.of(trainer, **other)
            name_replaced(trainer.cfg, last.identity, args)  # with the CLIP's images
            again = trains and trainer.start_epoch >= trainer.max_epoch  # it was only evaluated
            write_results(replace(last, checked=checked), earlier if again else None)
            if not (args.eval_only or cfg.DATASET.FEATURES) and of_method:
                print(f"Classify images with this run:\n{predict_command(last)}")


def setup_run(cfg) -> None:
    """Start the log, seed the random generators, and print the settings: all of them in the log."""
    setup_logger(cfg.OUTPUT_DIR)
    if cfg.SEED >= 0:
        print(f"Setting fixed seed: {cfg.SEED}")
        set_random_seed(cfg.SEED)
    print(f"Arguments: {' '.join(sys.argv[1:])}")
    used = "cuda" if cfg.USE_CUDA and torch.cuda.is_available() else "cpu"
    print(f"Device: {device_name(used)}")
    if cfg.USE_CUDA and (idle := idle_gpus()):
        print(f"warning: this run is on the CPU, but the machine has {idle}")
    print()
    log = sys.stdout.file  # type: ignore[union-attr]  # of setup_logger
    print(f"Settings that differ from the defaults (all are in '{log.name}'):")
    print(f"{changed_settings(cfg)}\n")
    print(f"Config:\n{cfg_text(cfg)}\n\nEnvironment:\n{collect_env_info()}\n", file=log)


def train_or_evaluate(trainer, args, begin: Callable[[], None]) -> None:
    """Train or evaluate, as the flags say, and remove the results of an earlier run.

    They stay if the run is refused, because it must not load or resume from a checkpoint. `begin`
    is called when a training begins or goes on.
    """
    if args.eval_only:
        trainer.load_model(args.model_dir, epoch=epoch_to_load(trainer, args))
    elif args.no_train:
        return
    if not args.eval_only and getattr(trainer, "trains", True):
        resume = trainer.before_train

        def before_train():
            resume()
            begin()
            if trainer.start_epoch < trainer.max_epoch or not trainer.cfg.TEST.NO_TEST:
                remove_results(trainer.cfg)

        trainer.before_train = before_train
    else:
        remove_results(trainer.cfg)
    if args.eval_only:
        trainer.test()
    else:
        trainer.train()


def epoch_to_load(trainer, args) -> int | None:
    """Return the epoch for `load_model`; None takes the best, or the last.

    Trainers of other code only take the best, so they get the number of the last epoch without one.
    """
    epoch: int | None = args.load_epoch
    if hasattr(trainer, "method") or not args.model_dir:
        return epoch
    folders = [os.path.join(args.model_dir, name) for name in trainer.get_model_names()]
    paths = [find_checkpoint(folder, epoch) for folder in folders]
    if epoch is not None or not paths or any(path.endswith("best.pth.tar") for path in paths):
        return epoch
    return max(set.intersection(*(set(saved_epochs(folder)) for folder in folders)), default=None)


def name_replaced(cfg, recorded, args) -> None:
    """Print what the command line sets, but the record has as the training had it."""
    given = {*read_pairs(args.opts), *(["SEED"] if args.seed >= 0 else [])}
    now, then = in_groups(leaves(cfg)), recorded.keys
    now = {key: value for group in now.values() for key, value in group.items() if key in given}
    if names := sorted(unlike(now, then)):
        differences = ", ".join(f"{key} {then[key]} (not {now[key]})" for key in names)
        print(f"The record has settings of the training: {differences}")


def predict_command(last: Evaluation) -> str:
    """Return the command that classifies an image of the evaluated split with the trained run."""
    cfg, data, folder = last.cfg, last.dataset, last.cfg.OUTPUT_DIR
    image = (data.val if cfg.TEST.SPLIT == "val" else data.test)[0].impath
    call = "python -m benchmark predict"
    before = ""
    if Path.cwd() != ROOT:  # where `python -m benchmark` works
        image, folder = os.path.abspath(image), os.path.abspath(folder)
        before = f"cd {shlex.quote(str(ROOT))} &&{NEXT}"
    plugins = [["--plugin", name] for name in cfg.TRAINER.PLUGINS]
    words = map(shlex.join, (["--model-dir", folder], *plugins, [image]))
    return before + NEXT.join([call, *words])


def short_of_memory(error: Exception) -> str | None:
    """Return what lacks memory, `GPU` or `machine`, if that is the error; else None."""
    if gpu_is_full(error):
        return "GPU"
    on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return "machine" if on_cpu or isinstance(error, MemoryError) else None
