"""What a training was begun with (`begun.json` in its folder), so that other code resumes none."""

import json
from pathlib import Path

from trainers.prompting.errors import UserError, need
from trainers.prompting.method import METHODS
from trainers.prompting.record.hashes import edited_files
from trainers.prompting.storage.files import hold_lock, read_json, set_aside, write_whole
from trainers.prompting.storage.settings import (
    BEGUN,
    begun_otherwise,
    differing_keys,
    no_settings,
    of_other_code,
)
from trainers.prompting.storage.state import is_settings
from trainers.prompting.trainer.settings import settings_of


def redo(cfg) -> None:
    """Rename the folder of a training of other code; raises UserError if a run writes there."""
    folder = Path(cfg.OUTPUT_DIR).absolute()
    if not _edited_files(folder, cfg):
        return
    with hold_lock(folder / ".lock") as free:
        need(free, f"'{folder}' is being written by another run: wait until it has ended")
        print(f"'{folder}' holds a run of other code: it is '{set_aside(folder)}' now")


def check_begun(cfg, accept: bool) -> list[str]:
    """Return the files that were edited since the training that the run resumes, if accepted.

    Raises:
        UserError: it would resume a training of other code, or (for a trainer of other code, whose
            checkpoints lack them) one that was begun with other settings.
    """
    folder = Path(cfg.RESUME or cfg.OUTPUT_DIR)
    if not any(folder.glob("*/checkpoint")):
        return []
    begun = _read_begun(folder)
    if cfg.TRAINER.NAME not in METHODS:
        if "settings" not in begun:
            no_settings(folder)
        elif keys := differing_keys(begun["settings"], settings_of(cfg)):
            raise begun_otherwise(folder, f"settings ({keys})")
    now = _edited_files(folder, cfg)
    if now and not accept:
        raise of_other_code(folder, now)
    return sorted({*begun.get("edited", []), *now})


def note_begun(cfg, code: dict[str, str], files: list[str]) -> None:
    """Write what resuming this training will need: hashes of its code, and edited files."""
    begun: dict = {"code": code, "edited": files}
    begun["plugins"] = list(cfg.TRAINER.PLUGINS)
    if cfg.TRAINER.NAME not in METHODS:
        begun["settings"] = settings_of(cfg)
    write_whole(Path(cfg.OUTPUT_DIR) / BEGUN, json.dumps(begun, indent=1) + "\n")


def _edited_files(folder: Path, cfg) -> list[str]:
    """Return the files of the code of a training that were edited since; none if none is there."""
    if not any(folder.glob("*/checkpoint")):
        return []
    begun = _read_begun(folder)
    return edited_files(begun.get("code"), cfg.TRAINER.PLUGINS)


def _read_begun(folder: Path) -> dict:
    """Return what a training was begun with, if it says so; raises UserError for a broken file."""
    path = folder / BEGUN
    if not path.exists():
        return {}
    content = read_json(path, "delete that folder")
    if not all(is_settings(content.get(key, {})) for key in ("code", "settings")):
        raise UserError(f"'{path}' is not of this project: delete that folder")
    return content
