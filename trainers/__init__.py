"""The methods. Importing this package registers every trainer.

A file that was put here and cannot be imported is named and left out; asking for its trainer gives
the error. Modules that other repositories' files import under another name are in ``compat``.
"""

from dassl.engine import TRAINER_REGISTRY
from dassl.utils.plugins import import_files

from . import compat

_here = list(__path__)
__path__ += compat.__path__  # searched last: a file of that name in this folder comes first
import_files(__name__, _here, TRAINER_REGISTRY, skip=("common", "compat"))
