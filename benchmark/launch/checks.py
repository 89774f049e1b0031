"""Settings that cannot be, found before the first run."""

import io
import sys
from contextlib import redirect_stdout
from importlib import import_module

from trainers.prompting.errors import UserError

from .engine import Engine, command


def check_settings(engine: Engine) -> None:
    """Look at what is set for each method and variant; without PyTorch, say that nobody did.

    Raises:
        UserError: a key is unknown, a value is none that it takes, or a method cannot name the
            classes that the protocol tests.
    """
    if not engine.todo:
        return
    try:
        train = import_module("train")
    except ModuleNotFoundError as error:
        print(f"{error.name} is missing: the settings are not checked here", file=sys.stderr)
        return
    from dassl.data.transforms import build_transform
    from dassl.optim import build_lr_scheduler, build_optimizer
    from torch import device, nn

    from trainers.prompting.backbones import check_known
    from trainers.prompting.method import METHODS
    from trainers.prompting.running.precision import Precision
    from trainers.prompting.trainer.config import read_node, values_in

    one_of_each = {(run.trainer, run.config_file, run.opts): run for run in engine.todo}
    for run in one_of_each.values():
        with redirect_stdout(io.StringIO()):  # each run says the same
            cfg = train.setup_cfg(train.parse_args(command(run, engine.settings)[2:]))
            build_transform(cfg, is_train=True)
            build_lr_scheduler(build_optimizer(nn.Linear(1, 1), cfg.OPTIM), cfg.OPTIM)
            kind = METHODS.get(cfg.TRAINER.NAME)
            if kind is not None:
                if kind.class_bound and run.protocol.new_classes:
                    raise UserError(
                        f"{run.trainer} learns something for each of its classes, and cannot be "
                        f"tested on new ones in {run.protocol.name}: compare it in few_shot"
                    )
                node = read_node(kind, values_in(cfg, kind), cfg.DATASET.NAME)
                kind.point(node)
                check_known(cfg.MODEL.BACKBONE.NAME)
                Precision(node.PREC, device("cpu"))
