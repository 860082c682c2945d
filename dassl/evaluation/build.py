"""The evaluator registry."""

from typing import TYPE_CHECKING, Any

from yacs.config import CfgNode

from dassl.config import check_value, one_of
from dassl.utils.registry import Registry

if TYPE_CHECKING:
    from .evaluator import EvaluatorBase

EVALUATOR_REGISTRY = Registry("EVALUATOR")


def build_evaluator(cfg: CfgNode, **kwargs: Any) -> "EvaluatorBase":
    """Return the evaluator that `TEST.EVALUATOR` names."""
    name, known = cfg.TEST.EVALUATOR, EVALUATOR_REGISTRY.registered_names()
    check_value("TEST.EVALUATOR", name, one_of(*known))
    if cfg.VERBOSE:
        print(f"Loading evaluator: {name}")
    return EVALUATOR_REGISTRY.get(name)(cfg, **kwargs)
