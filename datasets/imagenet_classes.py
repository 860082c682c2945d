"""WordNet ids of ImageNet's 1000 classes and of the 200 in ImageNet-A and ImageNet-R.

Label i of a complete dataset is entry i (sorted ids). Classes of two ImageNet-like datasets are
matched by these ids, because two names occur twice ("missile", "sunglasses").
"""

import json
from functools import cache
from pathlib import Path

from dassl.utils import did_you_mean

# datasets that name the same 1000 classes
SAME_CLASSES = ("imagenet", "imagenetv2", "imagenet_sketch")
CLASS_NAMES = {
    "imagenet": "imagenet",
    "imagenetv2": "imagenetv2",
    "imagenetsketch": "imagenet_sketch",
    "imageneta": "imagenet_a",
    "imagenetr": "imagenet_r",
}


@cache
def _tables() -> dict[str, list[str]]:
    path = Path(__file__).with_name("imagenet_classes.json")
    return json.loads(path.read_text(encoding="utf-8"))


def imagenet_wnids() -> list[str]:
    """The 1000 ids, sorted: entry i is label i."""
    return list(_tables()["imagenet"])


def variant_wnids(dataset: str) -> list[str]:
    """The ids of an ImageNet-like dataset in label order.

    Args:
        dataset: config or class name, such as "imagenet_a" or "ImageNetA".

    Raises:
        ValueError: for another name.
    """
    name = CLASS_NAMES.get(dataset.lower().replace("_", "").replace("-", ""))
    if name is None:
        known = list(CLASS_NAMES.values())
        raise ValueError(
            f'"{dataset}" is not an ImageNet-like dataset. {did_you_mean(dataset, known)}'
        )
    return imagenet_wnids() if name in SAME_CLASSES else list(_tables()[name])


def default_classnames() -> dict[str, str]:
    """Id -> class name as in open_clip_torch, for trees without ``classnames.txt``."""
    from open_clip import IMAGENET_CLASSNAMES

    return dict(zip(imagenet_wnids(), IMAGENET_CLASSNAMES, strict=True))
