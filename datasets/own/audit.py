"""All that somebody should know of a set of one's own before training on it, at once."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dassl.utils import BadImageError, read_image

from ..records import SPLITS
from ..subsampling import FEWEST_CLASSES
from .divide import Division, divide
from .listing import Entry, Listing, listed

ID_LIKE = re.compile(
    r"\d+|n\d{8}|[0-9a-f]{8,}(-[0-9a-f]+)*|(class|cls|cat|category|id|label|c)[\s_-]?\d+", re.I
)


@dataclass
class Audit:
    """What was found.

    Attributes:
        problems: what keeps the set from being used.
        notes: what makes its accuracies say less than they seem to.
        counts: class name -> images per split; empty where the set cannot be divided.
        said: how it was read and what was split off.
    """

    problems: list[str]
    notes: list[str]
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    @property
    def sizes(self) -> dict[str, int]:
        """Images per split."""
        return {split: sum(count[split] for count in self.counts.values()) for split in SPLITS}


def audit(listing: Listing) -> Audit:
    """What folders, names and numbers tell; no image is opened."""
    found = Audit(list(listing.problems), list(listing.notes), said=list(listing.said))
    if listing.entries:
        _look_at_names(listing, found)
    if not listing.problems:
        try:
            division = divide(listing)
        except ValueError as err:
            found.problems.append(str(err))
        else:
            _count(listing, division, found)
    return found


def _look_at_names(listing: Listing, found: Audit) -> None:
    names = list(listing.names.values())
    ids = [name for name in names if ID_LIKE.fullmatch(name)]
    if ids:
        found.notes.append(
            f"class names that look like ids, which the text encoder cannot read: {listed(ids)}. "
            "Write readable ones into a file (a line per class, as: n01530575 brambling) and give "
            "--classnames FILE"
        )
    if unseen := [name for name in names if not name.isprintable()]:
        found.notes.append(
            f"class names with characters that cannot be seen, which prompts leave out: "
            f"{listed(map(ascii, unseen))}. Rename the folders, or give --classnames FILE"
        )
    if len(names) == 1:
        found.problems.append(
            f'{listing.spec} has one class, "{names[0]}"; expected at least two, as every answer '
            "would be right. Name the folder above, or add a class."
        )
    elif len(names) < FEWEST_CLASSES:
        found.notes.append(
            f"{len(names)} classes: too few for base-to-novel, which needs {FEWEST_CLASSES}"
        )


def _count(listing: Listing, division: Division, found: Audit) -> None:
    found.said += division.said
    found.counts = {name: Counter() for name in listing.names.values()}
    for split, records in division.splits.items():
        for record in records:
            found.counts[record.classname][split] += 1
    single = [name for name, count in found.counts.items() if count.total() == 1]
    if single:
        found.notes.append(
            f"classes with one image ({listed(single)}) are trained on and never tested. Add images"
        )
    for split, size in found.sizes.items():
        lacking = [name for name, count in found.counts.items() if not count[split]]
        if size and size < len(found.counts):
            found.notes.append(
                f"{split} is nearly empty (classes: {len(found.counts)}, images: {size}): one "
                f"image is {100 / size:.0f}% of an accuracy. Add images"
            )
        elif lacking and size:
            found.notes.append(f"{split} has no image of {listed(lacking)}. Add images")
    if not found.sizes["test"]:
        found.problems.append(
            f"{listing.spec} has no test images; expected two images per class at least. Add some."
        )


def unreadable(
    listing: Listing, progress: Callable[[list[Entry]], Iterable[Entry]] = iter
) -> Iterator[str]:
    """Open every image as the loaders do; a text for each that is there and cannot be read."""
    there = [entry for entry in listing.entries if os.path.lexists(listing.path(entry))]
    for entry in progress(there):
        try:
            read_image(listing.path(entry))
        except (OSError, BadImageError) as err:
            yield str(err)


def duplicates(listing: Listing) -> list[str]:
    """Files with the same content in several classes, or in several splits of one class."""
    splits: dict[str, str] = {}
    if not listing.problems:
        for split, records in divide(listing).splits.items():
            splits |= dict.fromkeys((record.path for record in records), split)
    across_classes, across_splits = [], []
    for group in _same_content(listing):
        paths = " = ".join(entry.path for entry in group)
        if len({entry.label for entry in group}) > 1:
            across_classes.append(paths)
        elif len({splits.get(entry.path, entry.split) for entry in group}) > 1:
            across_splits.append(paths)
    texts = []
    for groups, what, advice in (
        (across_classes, "classes", "Keep the one with the right label"),
        (across_splits, "splits", "Delete the copies, or the test tells little of new images"),
    ):
        if groups:
            texts.append(f"the same image in several {what}: {listed(groups)}. {advice}")
    return texts


def _same_content(listing: Listing) -> list[list[Entry]]:
    """Groups of entries with equal bytes; only files of equal size are read."""
    by_size: dict[int, list[Entry]] = {}
    for entry in {entry.path: entry for entry in listing.entries}.values():  # each file once
        path = listing.path(entry)
        if os.path.isfile(path):
            by_size.setdefault(os.path.getsize(path), []).append(entry)
    by_content: dict[str, list[Entry]] = {}
    for group in by_size.values():
        for entry in group if len(group) > 1 else ():
            try:
                digest = hashlib.sha256(Path(listing.path(entry)).read_bytes()).hexdigest()
            except OSError:  # told by `unreadable`
                continue
            by_content.setdefault(digest, []).append(entry)
    return [group for group in by_content.values() if len(group) > 1]
