"""What a training was begun with (`begun.json` in its folder), so that other code resumes none."""

import json
from pathlib import Path

from trainers.prompting.checkpoint.cfg_texts import (
    BEGUN,
    begun_otherwise,
    differing,
    no_settings,
    other_code,
    settings_of,
)
from trainers.prompting.errors import UserError, need
from trainers.prompting.method import METHODS
from trainers.prompting.record.hashes import edited_files
from trainers.prompting.storage.files import hold_lock, read_json, set_aside, write_whole
from trainers.prompting.storage.values import are_texts, is_settings


def redo(cfg) -> None:
    """Rename the folder of a training of other or unknown code; UserError if a run writes there."""
    folder = Path(cfg.OUTPUT_DIR).absolute()
    if not any(folder.glob("*/checkpoint")):
        return
    code = _read_begun(folder).get("code")
    if code is not None and not edited_files(code, cfg.TRAINER.PLUGINS):
        return
    with hold_lock(folder / ".lock") as free:
        need(free, f"'{folder}' is being written by another run: wait until it has ended")
        print(f"'{folder}' holds a run of other code: it is '{set_aside(folder)}' now")


def check_begun(cfg) -> list[str]:
    """Return the files that were edited since the training that the run resumes, if accepted.

    None for a method of this project, whose checkpoints are checked in place of that.
    """
    folder = Path(cfg.RESUME or cfg.OUTPUT_DIR)
    if cfg.TRAINER.NAME in METHODS or not any(folder.glob("*/checkpoint")):
        return []
    begun = _read_begun(folder)
    if "settings" not in begun:
        no_settings(folder)
    elif what := differing(begun["settings"], settings_of(cfg)):
        raise begun_otherwise(folder, what)
    now = edited_files(begun.get("code"), cfg.TRAINER.PLUGINS)
    if now and not cfg.TRAINER.ACCEPT_EDITED:
        raise other_code(folder, now)
    return sorted({*begun.get("edited", []), *now})


def note_begun(cfg, code: dict[str, str], files: list[str]) -> None:
    """Write what resuming this training will need: hashes of its code, and edited files."""
    begun: dict = {"code": code, "edited": files, "plugins": list(cfg.TRAINER.PLUGINS)}
    if cfg.TRAINER.NAME not in METHODS:
        begun["settings"] = settings_of(cfg)
    write_whole(Path(cfg.OUTPUT_DIR) / BEGUN, json.dumps(begun, indent=1) + "\n")


def _read_begun(folder: Path) -> dict:
    """Return what a training was begun with, if it says so; raises UserError for a broken file."""
    path = folder / BEGUN
    if not path.exists():
        return {}
    content = read_json(path, "delete that folder")
    groups = all(is_settings(content.get(key, {})) for key in ("code", "settings"))
    if not (groups and are_texts(content.get("edited", []))):
        raise UserError(f"'{path}' is not of this project: delete that folder")
    return content
