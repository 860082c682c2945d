"""One file per dataset; importing the package registers them all in ``DATASET_REGISTRY``."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    if not _module.ispkg:
        importlib.import_module(f"{__name__}.{_module.name}")
