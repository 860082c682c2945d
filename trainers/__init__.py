"""The methods. Importing this package makes every trainer known, by its name.

A file or folder is one method. ``common`` is what several methods share; ``compat`` has the modules
that other repositories' files import under another name.

A trainer's file is imported when the trainer is asked for. One that was put here and cannot be
imported does not disturb the others; asking for its trainer gives the error.
"""

from pathlib import Path

from dassl.engine import TRAINER_REGISTRY
from dassl.utils.files import FORMATS
from dassl.utils.plugins import import_files


def _foreign_format(path: Path) -> str:
    from clip.formats import foreign_format  # imports torch, which a failure has done before

    return foreign_format(path)


FORMATS.append(_foreign_format)
_here = list(__path__)
# searched last: a file of that name in this folder comes first
__path__ += [str(Path(folder, "compat")) for folder in _here]
import_files(__name__, _here, TRAINER_REGISTRY, skip=("common", "compat"))
