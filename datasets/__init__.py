"""One file per dataset; importing the package makes them known in ``DATASET_REGISTRY``.

A file is imported when its dataset is asked for. One that cannot be imported does not disturb the
others; asking for its dataset gives the error.
"""

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils.plugins import import_files

import_files(__name__, __path__, DATASET_REGISTRY)
