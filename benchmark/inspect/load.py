"""A config, or a finished run with its prompts, as a trainer."""

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from trainers.prompting.errors import UserError


def load_run(folder: Path):
    """The trainer of a finished run, with its data and its prompts.

    Raises:
        UserError: the folder holds no finished run, or its data or prompts are gone.
    """
    from recipe.configs import leaves
    from recipe.settings import build_cfg

    path = folder / "results.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))["config"]
        keys = dict(leaves(config))
    except OSError:
        raise UserError(f"'{folder}' holds no finished run: there is no results.json") from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise UserError(f"'{path}' is not the record of a run: train again") from None
    with quiet():
        cfg = build_cfg([(f"'{path}'", keys)])
    cfg.OUTPUT_DIR = cfg.RESUME = ""
    return build(cfg, folder)


def build(cfg, folder: Path | None = None):
    """The trainer of a config, with the prompts in a folder.

    Raises:
        UserError: a mistake of the user's.
    """
    from dassl.engine import build_trainer

    try:
        with quiet():
            trainer = build_trainer(cfg)
            if folder:
                trainer.load_model(str(folder))
    except Exception as error:
        if not hasattr(error, "exit_code"):  # marks what is told to the user in one sentence
            raise
        raise UserError(str(error), error.exit_code) from error
    return trainer


@contextmanager
def quiet() -> Iterator[None]:
    """What is printed appears, on stderr, only if it ends in an error that nobody foresaw."""
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            yield
    except Exception as error:
        if not hasattr(error, "exit_code"):
            print(said.getvalue(), file=sys.stderr)
        raise
