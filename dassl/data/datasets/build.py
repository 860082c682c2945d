"""The dataset registry."""

from yacs.config import CfgNode

from dassl.utils.registry import Registry

DATASET_REGISTRY = Registry("DATASET", is_own=lambda dataset: hasattr(dataset, "pieces"))


def build_dataset(cfg: CfgNode):
    """Return the dataset that `DATASET.NAME` names, built from `cfg`."""
    DATASET_REGISTRY.check(cfg.DATASET.NAME)
    if cfg.VERBOSE:
        print(f"Loading dataset: {cfg.DATASET.NAME}")
    return DATASET_REGISTRY.get(cfg.DATASET.NAME)(cfg)
