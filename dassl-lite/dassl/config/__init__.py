"""The default config and its helpers."""

from .defaults import get_cfg_default


def clean_cfg(cfg, trainer):
    """Remove the nodes of all trainers except `trainer`, so that a printed config stays short."""
    for key in list(cfg.TRAINER):
        if key not in ("NAME", trainer.upper()):
            cfg.TRAINER.pop(key)


__all__ = ["clean_cfg", "get_cfg_default"]
