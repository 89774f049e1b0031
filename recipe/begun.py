"""What a trainer of other code has begun a training with: `run.json` in its folder."""

import os
from pathlib import Path

from trainers.prompting.checkpoint.identity import (
    OF_WEIGHTS,
    Identity,
    begun_otherwise,
    differences,
    identity,
    no_settings,
    note_edited,
    read_run,
    run_in,
    write_run,
)
from trainers.prompting.method import METHODS
from trainers.prompting.record.hashes import edited_files

REMEDY = "delete that folder"


def check_begun(cfg) -> list[str]:
    """Return the files that were edited since the training that the run resumes began.

    None of a method of this project, whose checkpoints are checked in place of that; but one does
    not train beside the checkpoint of another, nor a run of --resume where another one is.
    """
    folder, output = Path(cfg.RESUME or cfg.OUTPUT_DIR), Path(cfg.OUTPUT_DIR)
    there = run_in(output, REMEDY) if any(output.glob("*/checkpoint")) else None
    if there and output.resolve() != folder.resolve():
        resumed = run_in(folder, REMEDY) or Identity(cfg.TRAINER.NAME)
        if texts := differences(resumed, there, OF_WEIGHTS):
            raise begun_otherwise(output, texts)
    if not any(folder.glob("*/checkpoint")):
        return []
    if cfg.TRAINER.NAME in METHODS:
        begun = run_in(folder, REMEDY)
        if begun and begun.method not in ("", name := cfg.TRAINER.NAME):
            raise begun_otherwise(folder, differences(Identity(name), begun, ()))
        return []
    begun = run_in(folder, REMEDY)
    if begun is None:
        no_settings(folder)
        return []
    if texts := differences(identity(cfg), begun):
        raise begun_otherwise(folder, texts)
    edited = (read_run(folder, REMEDY) or {}).get("edited") or []
    now = edited_files(begun.code, cfg.TRAINER.PLUGINS)
    note_edited(now)
    return sorted({*edited, *now})


def note_begun(cfg, code: dict[str, str], files: list[str]) -> None:
    """Write what resuming this training will need: its identity, and edited files."""
    if cfg.TRAINER.NAME not in METHODS:
        run = identity(cfg)._replace(code=code)
        write_run(os.fspath(cfg.OUTPUT_DIR), run=run._asdict(), edited=files)
