"""Read YAML with the parser in C where it is built in: tables and plans read hundreds of files.

What a file holds is bounded before it is built: YAML's aliases can stand for each other, so that a
few lines mean billions of values, and the parser in C ends the process where brackets are nested
too deeply.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from dassl.utils.text_files import read_text

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MERGE = "tag:yaml.org,2002:merge"  # of <<, which may stand several times
MOST_VALUES = 1_000_000  # of a file, aliases written out
DEEPEST = 100  # collections inside one another
HARMLESS = 1000  # characters that may open a collection
FAULTS = (  # PyYAML's own, and what its constructors raise for tags that do not fit (`!!int x`)
    yaml.YAMLError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


class _OnceEach(LOADER):  # type: ignore[misc, valid-type]
    """Refuses a key that stands twice: YAML forbids it, PyYAML takes the last value in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                if (key.tag, key.value) in seen:
                    line = key.start_mark.line + 1
                    raise ValueError(f"{key.value} is given twice, the second time in line {line}")
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """The content of a file; None if it is empty.

    Raises:
        ValueError: if it is not YAML, or holds more than it may; names the file.
    """
    return parse_yaml(read_text(path), path)


def parse_yaml(text: str, where: str | Path) -> Any:
    """The content of a text; ``where`` is what errors call it.

    Raises:
        ValueError: as ``read_yaml``.
    """
    try:
        if "&" in text or sum(map(text.count, "[{-?")) > HARMLESS:
            _check_size(text)
        return yaml.load(text, Loader=_OnceEach)
    except FAULTS as err:
        raise ValueError(f"{where} is not valid YAML: {' '.join(str(err).split())}") from err


def read_config(path: Path) -> CfgNode:
    """The config that a run has written, whole.

    Raises:
        ValueError: as ``config_of``.
    """
    return config_of(read_text(path), path)


def config_of(text: str, where: str | Path) -> CfgNode:
    """The config in a text that ``CfgNode.dump`` made, as run folders and checkpoints hold it.

    Raises:
        ValueError: if it is damaged or something else; names ``where``.
    """
    content = parse_yaml(text, where)
    try:
        if not isinstance(content, dict) or not _is_named(content):
            raise TypeError("expected KEY: VALUE lines")
        if not isinstance(content.get("TRAINER"), dict) or "NAME" not in content["TRAINER"]:
            raise TypeError("it does not name its trainer (TRAINER.NAME)")
        return CfgNode(content)
    except (TypeError, AssertionError) as err:
        raise ValueError(f"{where} is not the config of a run: {err}.") from err


def _is_named(content: Mapping[Any, Any]) -> bool:
    """Whether every key, also of the sections, is text."""
    return all(
        isinstance(key, str) and (not isinstance(value, dict) or _is_named(value))
        for key, value in content.items()
    )


def _check_size(text: str) -> None:
    """Refuse what would unfold to too many values or levels; reads no further than to that point.

    Raises:
        ValueError, yaml.YAMLError
    """
    sizes: dict[str, int] = {}  # anchor -> values
    opened: list[tuple[str | None, int]] = [(None, 0)]  # anchor and values so far
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, 1))
            count = 0
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, count = opened.pop()
            sizes[anchor or ""] = count
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in (anchor for anchor, _ in opened):
                raise ValueError(f"*{event.anchor} stands for something that holds it")
            count = sizes.get(event.anchor or "", 0)
        elif isinstance(event, yaml.ScalarEvent):
            sizes[event.anchor or ""] = count = 1
        else:
            continue
        opened[-1] = (opened[-1][0], opened[-1][1] + count)
        if opened[-1][1] > MOST_VALUES:
            raise ValueError(f"it holds more than {MOST_VALUES:,} values, aliases written out")
        if len(opened) > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")
