"""One file per dataset; importing the package registers them all in ``DATASET_REGISTRY``.

A file that cannot be imported is named and left out; asking for its dataset gives the error.
"""

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils.plugins import import_files

import_files(__name__, __path__, DATASET_REGISTRY)
