"""DescribableTextures (DTD): 47 texture attributes (Cimpoi et al., CVPR 2014)."""

import random
from collections.abc import Iterable
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY, Datum

from .files import images_by_class
from .records import SPLITS, split_by_fractions
from .split_dataset import FolderSplitDataset, to_items


@DATASET_REGISTRY.register()
class DescribableTextures(FolderSplitDataset):
    """Rebuild: rule P, class name = folder name."""

    dataset_dir = "dtd"
    section = "DescribableTextures"
    config = "dtd"

    @staticmethod
    def read_and_split_data(
        image_dir: str,
        p_trn: float = 0.5,
        p_val: float = 0.2,
        ignored: Iterable[str] = (),
        new_cnames: dict[str, str] | None = None,
    ) -> tuple[list[Datum], list[Datum], list[Datum]]:
        """Class folders -> (train, val, test) items; draws from Python's global generator."""
        folder = Path(image_dir)
        classes = images_by_class(
            folder,
            dataset=DescribableTextures.config,
            section=DescribableTextures.section,
            ignored=ignored,
        )
        splits = split_by_fractions(
            classes, names=new_cnames, p_train=p_trn, p_val=p_val, shuffle=random.shuffle
        )
        train, val, test = (to_items(splits[s], folder) for s in SPLITS)
        return train, val, test
