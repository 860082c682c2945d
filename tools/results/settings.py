"""Whether runs may be averaged as seeds: the settings that they ran with, and what differs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from dassl.config.settings import settings_digest, settings_that_matter
from dassl.config.yaml_files import read_yaml
from tools.results.records import Record

logger = logging.getLogger(__name__)
UNKNOWN = "settings not recorded"
SHOWN = 3  # keys whose values a label shows
WIDTH = 40  # characters of a value that a label shows
DIGEST = 8  # characters of a digest that tell groups apart


def by_settings(records: Sequence[Record]) -> list[tuple[str, list[Record]]]:
    """Records that may be averaged together, each group with what tells it from the others.

    A label names the keys that differ, with the group's values; it is "" where all runs agree.
    Runs without config.yaml and without a recorded digest (of other programs, say) agree with each
    other and with nothing else.
    """
    stored = {record.settings_digest for record in records}
    if len(records) == 1 or (len(stored) == 1 and stored != {""}):
        return [("", list(records))]
    groups: dict[str, list[Record]] = {}
    known: dict[str, dict] = {}
    for record in records:
        settings = settings_of(record)
        digest = record.settings_digest if settings is None else settings_digest(settings)
        groups.setdefault(digest, []).append(record)
        if settings is not None:
            known[digest] = settings
    if len(groups) == 1:
        return [("", list(records))]
    return list(zip(_labels(list(groups), known), groups.values(), strict=True))


def settings_of(record: Record) -> dict | None:
    """The settings that matter, from config.yaml of the run and of the model that it evaluated."""
    own = _read(record.path)
    if own is None:
        return None
    model = record.model_folder
    return settings_that_matter(own, None if model is None else _read(model))


def _read(folder: Path) -> dict | None:
    path = folder / "config.yaml"
    if not path.is_file():
        return None
    try:
        content = read_yaml(path)
    except (OSError, ValueError) as err:
        logger.warning("%s The settings of that run are taken as unknown.", err)
        return None
    return content if isinstance(content, dict) else None


def _labels(digests: Sequence[str], known: dict[str, dict]) -> list[str]:
    """What tells each group from the others, different for each."""
    keys = sorted({key for settings in known.values() for key in settings})
    differing = [key for key in keys if len({_value(one, key) for one in known.values()}) > 1]
    labels = [
        _label(known[digest], differing) if digest in known else UNKNOWN for digest in digests
    ]
    return [
        f"{label} ({digest[:DIGEST]})" if labels.count(label) > 1 else label
        for label, digest in zip(labels, digests)
    ]


def _label(settings: dict, differing: Sequence[str]) -> str:
    """All keys, the first with their values."""
    shown = [f"{key} {_shorten(_value(settings, key))}" for key in differing[:SHOWN]]
    return ", ".join([*shown, *differing[SHOWN:]])


def _value(settings: dict, key: str) -> str:
    return str(settings[key]) if key in settings else "unset"


def _shorten(value: str) -> str:
    return value if len(value) <= WIDTH else f"{value[: WIDTH - 3]}..."
