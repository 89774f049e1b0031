"""Helpers: checkpoints, files, logging, seeds, meters, the registry, user errors."""
# ruff: noqa: F401 (trainers and data sets import these names from here)

from .checkpoints import (
    broken_checkpoint,
    load_checkpoint,
    load_content,
    load_last_checkpoint,
    load_pretrained_weights,
    restore,
    resume_from_checkpoint,
    save_checkpoint,
)
from .errors import DataError, LossNotFinite, UserError, unknown_name
from .images import decode_image, read_image
from .logger import Logger, progress, setup_logger
from .meters import AverageMeter, MetricMeter
from .registry import Registry
from .rng import get_rng_state, local_seed, set_rng_state
from .tools import (
    check_isfile,
    collect_env_info,
    count_num_param,
    listdir_nohidden,
    mkdir_if_missing,
    read_json,
    set_random_seed,
    tolist_if_not,
    write_json,
)
