"""The methods. Importing this package makes every trainer known, by its name.

A trainer's file is imported when the trainer is asked for. One that was put here and cannot be
imported does not disturb the others; asking for its trainer gives the error. Modules that other
repositories' files import under another name are in ``compat``.
"""

from pathlib import Path

from dassl.engine import TRAINER_REGISTRY
from dassl.utils.plugins import import_files

_here = list(__path__)
# searched last: a file of that name in this folder comes first
__path__ += [str(Path(folder, "compat")) for folder in _here]
import_files(__name__, _here, TRAINER_REGISTRY, skip=("common", "compat"))
