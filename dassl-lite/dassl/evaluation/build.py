"""The registry of evaluators."""

from dassl.utils import Registry

EVALUATOR_REGISTRY = Registry("EVALUATOR")


def build_evaluator(cfg, **kwargs):
    """Build the evaluator that `cfg.TEST.EVALUATOR` names."""
    return EVALUATOR_REGISTRY.build(cfg.TEST.EVALUATOR, cfg, **kwargs)
