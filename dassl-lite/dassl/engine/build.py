"""The trainers known by name."""

from dassl.utils import Registry

TRAINER_REGISTRY = Registry("TRAINER")


def build_trainer(cfg):
    """The trainer that `cfg.TRAINER.NAME` names, built from `cfg`."""
    return TRAINER_REGISTRY.build(cfg.TRAINER.NAME, cfg)
