"""Checking that the images of a dataset exist and can be read, before anything is trained."""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, groupby

from dassl.utils.file_index import Identities, stat_digest
from dassl.utils.files import cache_dir
from dassl.utils.image import BadImageError, max_pixels, read_image

from .datasets.base_dataset import DatasetBase, Datum

logger = logging.getLogger(__name__)
SPLITS = ("train_x", "train_u", "val", "test")
_MAX_NAMED = 5
_FEW = 32  # files that are looked at one by one; for more, their folder is listed
READABLE = b"readable"  # a verdict that is kept
_CHUNK = 64  # images that a thread decodes at a time


def check_images(dataset: DatasetBase, *, skip_bad: bool) -> dict[str, int]:
    """Stop at missing images, or leave out the missing and the corrupt ones.

    Args:
        dataset: its lists are replaced by the readable items if any is left out.
        skip_bad: `DATALOADER.SKIP_BAD_IMAGES`: decode every image once (later runs decode what
            has changed since) and leave out what cannot be read. Otherwise only existence is
            checked, and a corrupt image stops the run when it is read.

    Returns:
        Number of items left out, per split; empty unless `skip_bad`.

    Raises:
        FileNotFoundError: images are missing and `skip_bad` is off.
    """
    paths = sorted(
        {
            item.impath
            for split in _splits(dataset)
            for item in _items(dataset, split)
            if item.impath
        }
    )
    if skip_bad:
        bad = _unreadable_ones(paths)
    else:
        bad = _in_threads(_missing, (list(files) for _, files in groupby(paths, os.path.dirname)))
    if not bad:
        return {}
    named = ", ".join(sorted(bad)[:_MAX_NAMED]) + (", ..." if len(bad) > _MAX_NAMED else "")
    if not skip_bad:
        raise FileNotFoundError(
            f"{len(bad)} of {len(paths)} images of {type(dataset).__name__} are missing: {named}. "
            "Complete the dataset (python tools/check_data.py says what is expected where), or "
            "pass --skip-bad-images (DATALOADER.SKIP_BAD_IMAGES True) to run without them."
        )
    counts = _leave_out(dataset, bad)
    logger.warning("Left out %d missing or corrupt images: %s", sum(counts.values()), named)
    return counts


def warn_of_one_class(dataset: DatasetBase) -> None:
    """Say that accuracies mean nothing where there is one class to answer."""
    if dataset.num_classes == 1:
        logger.warning(
            '%s has one class here, "%s": every answer is right whatever the model does (chance '
            "level 100%%), so the accuracy says nothing. Expected at least two classes (check the "
            "class folders, and DATASET.SUBSAMPLE_CLASSES).",
            type(dataset).__name__,
            dataset.lab2cname.get(0, ""),
        )


def warn_of_shared_images(dataset: DatasetBase, *, uses_train: bool, uses_val: bool) -> None:
    """Name the test images whose labels the training reads.

    Args:
        dataset: with the lists of this run.
        uses_train: labels of training images enter.
        uses_val: labels of validation images choose the epoch or settings.
    """
    tested = {item.impath for item in dataset.test or ()}
    read = (("train", "training", uses_train), ("val", "validation", uses_val))
    for split, kind, is_read in read:
        items = dataset.train_x if split == "train" else dataset.val
        shared = sorted(tested & {item.impath for item in items or ()}) if is_read else ()
        if shared:
            logger.warning(
                "%d of %d test images of %s are %s images too, the first %s: the test accuracy "
                "says little about new images. Use lists without shared images.",
                len(shared),
                len(tested),
                type(dataset).__name__,
                kind,
                shared[0],
            )


def _splits(dataset: DatasetBase) -> tuple[str, ...]:
    return (*SPLITS, *dataset.more_splits)


def _items(dataset: DatasetBase, split: str) -> Sequence[Datum]:
    return getattr(dataset, split, None) or ()


def _in_threads(
    find_bad: Callable[[Sequence[str]], list[str]], groups: Iterable[Sequence[str]]
) -> set[str]:
    """The bad ones among groups of paths, each group a task: a path has no task of its own."""
    with ThreadPoolExecutor(max_workers=min(16, (os.cpu_count() or 1) * 2)) as pool:
        return set(chain.from_iterable(pool.map(find_bad, groups)))


def _missing(paths: Sequence[str]) -> list[str]:
    """Those of a folder's files that are not there."""
    folder, names = os.path.dirname(paths[0]) or ".", set[str]()
    if len(paths) > _FEW and os.path.isdir(folder):
        with os.scandir(folder) as entries:
            names = {entry.name for entry in entries if entry.is_file()}
    unlisted = (path for path in paths if os.path.basename(path) not in names)
    # a file system that ignores case opens what its listing spells differently
    return [path for path in unlisted if not os.path.isfile(path)]


def _unreadable_ones(paths: Sequence[str]) -> set[str]:
    """Those that cannot be decoded; what could be once, and did not change, is not tried again."""
    readable = Identities(cache_dir() / "readable" / f"{max_pixels()}")
    unknown = [paths[place] for place in readable.lookup(paths)[1]]
    chunks = [unknown[i : i + _CHUNK] for i in range(0, len(unknown), _CHUNK)]
    stats = dict(zip(unknown, map(_stat, unknown)))
    bad = _in_threads(_unreadable, chunks)
    good = [path for path in unknown if path not in bad]
    readable.remember([stats[path] for path in good], [READABLE] * len(good), good)
    return bad


def _stat(path: str) -> bytes:
    try:
        return stat_digest(path)[0]
    except OSError:
        return b""


def _unreadable(paths: Sequence[str]) -> list[str]:
    return [path for path in paths if not _is_readable(path)]


def _is_readable(path: str) -> bool:
    try:
        read_image(path)
    except (BadImageError, FileNotFoundError):
        return False
    return True


def _leave_out(dataset: DatasetBase, bad: set[str]) -> dict[str, int]:
    """Drop the items with these paths from every list; return how many per split."""
    counts = {}
    for split in _splits(dataset):
        items = _items(dataset, split)
        kept = [item for item in items if item.impath not in bad]
        if len(kept) < len(items):
            counts[split] = len(items) - len(kept)
            setattr(dataset, f"_{split}", kept)
            if not kept:
                raise ValueError(f"No readable image is left in {split}; all are in {bad}.")
    lost = set(range(dataset.num_classes)) - {item.label for item in dataset.train_x}
    if lost:
        names = ", ".join(str(dataset.lab2cname[label]) for label in sorted(lost)[:_MAX_NAMED])
        raise ValueError(f"No readable training image is left of {len(lost)} classes: {names}.")
    return counts
