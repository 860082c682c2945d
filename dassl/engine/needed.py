"""What a run reads beside images and its backbone: asked for before the first run starts.

A trainer that can do without some of it has ``without_extras(cfg)``, a class method, too: what its
recipe's default becomes on a set of one's own, for which nobody has published such files.

A trainer that reads such files has ``needed_files(cfg)``, a class method that reads the config
alone; tools/protocols/preflight.py tries every file once. DATASETS.md says where they come from.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class NeededFile:
    """One file or network.

    Attributes:
        what: what messages call it; equal names are tried once.
        read: finds or loads it as the run will, and raises what the run would raise.
        may_download: ``read`` fetches it where it is not there.
    """

    what: str
    read: Callable[[], object]
    may_download: bool = False


@dataclass(frozen=True)
class Without:
    """How a method does without a file that is not there.

    Attributes:
        key: the setting that asks for it.
        value: the one that does not.
        said: what is left out, and how to have it.
        given_by: further keys; who gives one of them, or ``key``, wants the file.
    """

    key: str
    value: object
    said: str
    given_by: tuple[str, ...] = ()
