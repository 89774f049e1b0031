"""What a trainer of other code has begun a training with: `begun.json` in its folder."""

import json
from pathlib import Path

from trainers.prompting.checkpoint.cfg_texts import (
    BEGUN,
    begun_otherwise,
    differing,
    no_settings,
    note_edited,
    settings_of,
)
from trainers.prompting.errors import UserError
from trainers.prompting.method import METHODS
from trainers.prompting.record.hashes import edited_files
from trainers.prompting.storage.files import read_json, write_whole
from trainers.prompting.storage.values import are_texts, is_settings


def check_begun(cfg) -> list[str]:
    """Return the files that were edited since the training that the run resumes began.

    None of a method of this project, whose checkpoints are checked in place of that.
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
    note_edited(now)
    return sorted({*begun.get("edited", []), *now})


def note_begun(cfg, code: dict[str, str], files: list[str]) -> None:
    """Write what resuming this training will need, unless its checkpoints have that.

    It is its settings, hashes of its code, and edited files.
    """
    if cfg.TRAINER.NAME not in METHODS:
        begun = {"code": code, "edited": files, "settings": settings_of(cfg)}
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
