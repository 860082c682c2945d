"""Read YAML files with the parser in C where it is built in: tables and plans read hundreds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dassl.utils.text_files import read_text

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> Any:
    """The content of a file; None if it is empty.

    Raises:
        ValueError: if it is not YAML; names the file.
    """
    try:
        return yaml.load(read_text(path), Loader=LOADER)
    except yaml.YAMLError as err:
        raise ValueError(f"{path} is not valid YAML: {err}") from err
