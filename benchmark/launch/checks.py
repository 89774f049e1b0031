"""Settings that cannot be, found before the first run."""

import io
import sys
from contextlib import redirect_stdout
from importlib import import_module

from .engine import Engine, command


def check_settings(engine: Engine) -> None:
    """Look at what is set for each method and variant; without PyTorch, say that nobody did.

    Raises:
        UserError: a key is unknown, or a value is none that it takes.
    """
    if not engine.todo:
        return
    try:
        train, config = map(import_module, ("train", "trainers.prompting.trainer.config"))
    except ModuleNotFoundError as error:
        print(f"{error.name} is missing: the settings are not checked here", file=sys.stderr)
        return
    one_of_each = {(run.trainer, run.config_file, run.opts): run for run in engine.todo}
    for run in one_of_each.values():
        with redirect_stdout(io.StringIO()):  # each run says the same
            cfg = train.setup_cfg(train.parse_args(command(run, engine.settings)[2:]))
            kind = config.METHODS.get(cfg.TRAINER.NAME)
            if kind is not None:
                values = config.values_in(cfg, kind)
                kind.point(config.read_node(kind, values, cfg.DATASET.NAME))
