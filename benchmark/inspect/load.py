"""A config, or a finished run with its prompts, as a trainer."""

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

from ..errors import BadInput


def load_run(folder: Path):
    """The trainer of a finished run, with its data and its prompts; what it says goes to stderr.

    Raises:
        BadInput: the folder holds no finished run, or its data or prompts are gone.
    """
    try:
        config = json.loads((folder / "results.json").read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(f"'{folder}' holds no finished run: there is no results.json") from None
    from dassl.config import get_cfg_default
    from yacs.config import CfgNode

    from trainers.prompting import extend_cfg

    cfg = get_cfg_default()
    extend_cfg(cfg)
    cfg.merge_from_other_cfg(CfgNode(config))
    cfg.OUTPUT_DIR = cfg.RESUME = ""
    return build(cfg, folder)


def build(cfg, folder: Path | None = None):
    """The trainer of a config, with the prompts in a folder; what it says goes to stderr.

    Raises:
        BadInput: a mistake of the user's.
    """
    from dassl.engine import build_trainer

    import datasets  # noqa: F401 (registers the data sets)

    try:
        with redirect_stdout(sys.stderr):
            trainer = build_trainer(cfg)
            if folder:
                trainer.load_model(str(folder))
    except Exception as error:
        if not hasattr(error, "exit_code"):  # marks what is told to the user in one sentence
            raise
        raise BadInput(str(error)) from error
    return trainer
