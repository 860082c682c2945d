"""The dataset registry."""

from yacs.config import CfgNode

from dassl.utils.registry import Registry

from .base_dataset import DatasetBase

DATASET_REGISTRY = Registry("DATASET", is_own=lambda dataset: hasattr(dataset, "pieces"))


def build_dataset(cfg: CfgNode) -> DatasetBase:
    """Return the dataset that `DATASET.NAME` names, built from `cfg`.

    Raises:
        ValueError: an unknown name, or domains for a dataset that has none.
    """
    DATASET_REGISTRY.check(cfg.DATASET.NAME)
    if cfg.VERBOSE:
        print(f"Loading dataset: {cfg.DATASET.NAME}")
    dataset = DATASET_REGISTRY.get(cfg.DATASET.NAME)(cfg)
    for key in ("SOURCE_DOMAINS", "TARGET_DOMAINS"):
        if cfg.DATASET[key] and not dataset.domains:
            raise ValueError(
                f"DATASET.{key} is {tuple(cfg.DATASET[key])}, but {cfg.DATASET.NAME} has no "
                f"domains. Leave it (--{key.lower().replace('_', '-')}) out."
            )
    return dataset
