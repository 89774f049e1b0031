"""Helpers: checkpoints, files, logging, seeds, meters, the registry, a user's errors."""

from .checkpoints import (
    broken_checkpoint,
    load_checkpoint,
    load_last_checkpoint,
    load_pretrained_weights,
    restore,
    resume_from_checkpoint,
    save_checkpoint,
)
from .errors import DataError, LossNotFinite, UserError, unknown_name
from .images import read_image
from .layers import count_num_param, open_all_layers, open_specified_layers
from .logger import Logger, progress, setup_logger
from .meters import AverageMeter, MetricMeter
from .registry import Registry
from .rng import get_rng_state, local_seed, set_rng_state
from .tools import (
    check_availability,
    check_isfile,
    collect_env_info,
    get_most_similar_str_to_a_from_b,
    listdir_nohidden,
    mkdir_if_missing,
    read_json,
    set_random_seed,
    tolist_if_not,
    write_json,
)

__all__ = [
    "AverageMeter",
    "DataError",
    "Logger",
    "LossNotFinite",
    "MetricMeter",
    "Registry",
    "UserError",
    "broken_checkpoint",
    "check_availability",
    "check_isfile",
    "collect_env_info",
    "count_num_param",
    "get_most_similar_str_to_a_from_b",
    "get_rng_state",
    "listdir_nohidden",
    "load_checkpoint",
    "load_last_checkpoint",
    "load_pretrained_weights",
    "local_seed",
    "mkdir_if_missing",
    "open_all_layers",
    "open_specified_layers",
    "progress",
    "read_image",
    "read_json",
    "restore",
    "resume_from_checkpoint",
    "save_checkpoint",
    "set_random_seed",
    "set_rng_state",
    "setup_logger",
    "tolist_if_not",
    "unknown_name",
    "write_json",
]
