"""One file per dataset; importing the package makes them known in ``DATASET_REGISTRY``.

files.py, listings.py, near_miss.py           what must be on disk, listings, near misses
records.py, sampling.py, legacy_draws.py      splits, few-shot draws, those of the original code
split_dataset.py, subsampling.py              base of sets with a split; base and new classes
domain_split.py, conditions.py                DomainBed's split; which keys datasets read
imagenet_classes.py, imagenet_names.py        ImageNet's ids and names
imagenet_variant.py                           base of V2, Sketch, A and R
own, toy_world, toy_set.py                    sets of one's own; the toy world and its sets

A file is imported when its dataset is asked for. One that cannot be imported does not disturb the
others; asking for its dataset gives the error.
"""

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils.plugins import import_files

import_files(__name__, __path__, DATASET_REGISTRY)
