"""Evaluators."""

from .build import EVALUATOR_REGISTRY, build_evaluator
from .evaluator import Classification

__all__ = ["EVALUATOR_REGISTRY", "Classification", "build_evaluator"]
