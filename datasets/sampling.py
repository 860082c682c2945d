"""Few-shot draws: the original's, for each seed and item order, kept as readable JSON.

``<dataset>/split_fewshot/shot_<K>-seed_<s>.json`` holds the drawn records with relative paths,
their own fingerprint and that of the split that they were drawn from; a file of another split is
redrawn, one whose records are not the split's is refused. Drawing leaves Python's global generator
as it was, so a run does not depend on whether the file existed.
With SEED < 0 nothing is kept: every run draws again.
"""

import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from yacs.config import CfgNode

from dassl.utils import read_json, write_text

from .legacy_draws import match_items, read_pickled_draw
from .records import Record, as_record, fingerprint

logger = logging.getLogger(__name__)

WHOLE = -1
VAL_SHOTS = 4  # CoOp draws min(K, 4) validation images per class

Lists = tuple[list[Record], list[Record]]
Sampler = Callable[..., list[Record]]
Finder = Callable[[str], Record | None]  # path -> what the split says of it


@dataclass(frozen=True)
class Draw:
    """What to draw: K training images per class, validation images per class, seed.

    ``val_shots``: -1 the whole list, n the draw of min(K, n). ``num_shots`` < 1 means everything.
    """

    num_shots: int
    seed: int
    val_shots: int = VAL_SHOTS
    val_from_train: bool = False  # ImageNet with selection on "val"

    @classmethod
    def from_cfg(cls, cfg: CfgNode, *, val_from_train: bool = False) -> "Draw":
        """Read DATASET.NUM_SHOTS, DATASET.VAL_SHOTS and SEED."""
        num_shots, val_shots = cfg.DATASET.NUM_SHOTS, cfg.DATASET.VAL_SHOTS
        if val_shots < 1 and val_shots != WHOLE:
            raise ValueError(
                f"DATASET.VAL_SHOTS is {val_shots}. Use n >= 1 for min(NUM_SHOTS, n) validation "
                "images per class, or -1 for the whole validation split."
            )
        return cls(num_shots, cfg.SEED, val_shots, val_from_train)

    @property
    def val_per_class(self) -> int:
        """Validation images per class; -1 for the whole list."""
        if self.num_shots < 1 or self.val_shots == WHOLE:
            return WHOLE
        return min(self.num_shots, self.val_shots)

    @property
    def file_name(self) -> str:
        """File name of the kept draw."""
        extra = {WHOLE: "-val_all", VAL_SHOTS: ""}.get(self.val_shots, f"-val_{self.val_shots}")
        source = "-val_from_train" if self.val_from_train else ""
        return f"shot_{self.num_shots}-seed_{self.seed}{extra}{source}.json"


def selects_on_val(cfg: CfgNode) -> bool:
    """Whether the run chooses its epoch or hyperparameters on validation images."""
    return cfg.TEST.SELECT_ON == "val" or cfg.TEST.FINAL_MODEL == "best_val"


def draw_shots(
    train: list[Record], val: list[Record], draw: Draw, folder: Path, *, sample: Sampler
) -> Lists:
    """Draw the training and validation records, or read the kept draw.

    Args:
        train, val: the whole lists. With ``draw.val_from_train`` the validation images come from
            the training images that are not shots, and ``val`` is not used.
        folder: where draws are kept.
        sample: ``sample(records, num_shots=K, repeat=False)``, the engine's few-shot function.
    """
    if draw.num_shots < 1:
        return train, val
    split = fingerprint(train, () if draw.val_from_train else val)
    finders = by_path(train), by_path(val)
    return draw_from(lambda: (train, val), split, draw, folder, sample=sample, finders=finders)


def by_path(records: Iterable[Record]) -> Finder:
    """What finds a record by its path."""
    return {record.path: record for record in records}.get


def draw_from(
    lists: Callable[[], Lists],
    split: str,
    draw: Draw,
    folder: Path,
    *,
    sample: Sampler,
    finders: tuple[Finder, Finder],
) -> Lists:
    """``draw_shots`` for lists that are made only if they are needed.

    Args:
        lists: makes the whole (train, val) lists.
        split: their fingerprint, which a kept draw must have.
        finders: of the records in ``train`` and ``val``, by path.

    Raises:
        ValueError: for a kept draw whose records are not those of the split.
    """
    path = folder / draw.file_name
    kept = None
    if draw.seed >= 0:
        kept = _read(path, split)
        if kept is not None:
            train, val = finders
            check_drawn(kept[0], train, draw, path)
            check_drawn(kept[1], train if draw.val_from_train else val, draw, path)
        else:
            kept = _read_original(path, lists, draw)
    if kept is not None:
        print(f"Reading the {draw.num_shots}-shot draw of seed {draw.seed} from {folder}")
    shots, val_shots = kept or _draw(*lists(), draw, sample)
    if kept:  # a draw made now has warned already
        _warn_small_classes(shots, draw.num_shots)
    if draw.seed >= 0 and (kept is None or not path.exists()):
        _write(path, (shots, val_shots), split, draw)
    keeps_whole = draw.val_per_class == WHOLE and not draw.val_from_train
    return shots, lists()[1] if keeps_whole else val_shots


def _draw(train: list[Record], val: list[Record], draw: Draw, sample: Sampler) -> Lists:
    """Train first, then val, from one generator seeded like the run."""
    with seeded(draw.seed):
        shots = sample(train, num_shots=draw.num_shots, repeat=False)
        if draw.val_from_train:
            taken = set(shots)
            rest = [record for record in train if record not in taken]
            # there is no validation list of which "the whole" could be taken
            per_class = draw.val_per_class
            if per_class == WHOLE:
                per_class = min(draw.num_shots, VAL_SHOTS)
            return shots, sample(rest, num_shots=per_class, repeat=False)
        if draw.val_per_class == WHOLE:
            return shots, []
        return shots, sample(val, num_shots=draw.val_per_class, repeat=False)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's generator freshly seeded, and put back afterwards; untouched for seed < 0."""
    if seed < 0:
        yield
        return
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _warn_small_classes(shots: Sequence[Record], num_shots: int) -> None:
    sizes = Counter(record.classname for record in shots)
    small = sorted(name for name, size in sizes.items() if size < num_shots)
    if small:
        logger.warning(
            "DATASET.NUM_SHOTS is %d, but %d classes have fewer training images (%s): "
            "they give all they have.",
            num_shots,
            len(small),
            ", ".join(f"{name} {sizes[name]}" for name in small[:3]),
        )


def check_drawn(records: Sequence[Record], find: Finder, draw: Draw, path: Path) -> None:
    """Refuse drawn records that the split does not have.

    Raises:
        ValueError: naming the file, the first such record and what to delete.
    """
    counts: Counter[int] = Counter()
    for record in records:
        known = find(record.path)
        if known != record:
            said = f"the split has {list(known)}" if known else "the split has no such image"
            raise ValueError(
                f"The few-shot draw {path} holds {list(record)}, but {said}. Delete {path} to "
                "have the shots drawn again."
            )
        counts[record.label] += 1
    label, most = max(counts.items(), key=lambda pair: pair[1], default=(0, 0))
    if most > draw.num_shots:
        raise ValueError(
            f"The few-shot draw {path} holds {most} images of label {label}, but "
            f"DATASET.NUM_SHOTS is {draw.num_shots}. Delete {path} to have the shots drawn again."
        )


def _read(path: Path, split: str) -> Lists | None:
    """The draw kept in a file, or None when there is none that fits.

    Raises:
        ValueError: if its records were changed after it was written.
    """
    if not path.exists():
        return None
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            raise TypeError("expected an object")
        train, val = (_records(content, key) for key in ("train", "val"))
        fits = content["split"] == split
        drawn = content.get("drawn")  # files of the first version have none
    except (ValueError, KeyError, TypeError) as err:
        logger.warning("The few-shot draw %s is damaged (%s): drawn again.", path, err)
        return None
    if not fits:
        logger.warning("The few-shot draw %s belongs to another split: drawn again.", path)
        return None
    if drawn not in (None, fingerprint(train, val)):
        raise ValueError(
            f'The records in the few-shot draw {path} are not those of its "drawn" entry: it was '
            "damaged or edited. Delete it to have the shots drawn again, or delete only that "
            "entry to use the records as they are."
        )
    return train, val


def _records(content: dict, key: str) -> list[Record]:
    found = list(map(as_record, content[key]))
    if None in found:
        raise ValueError(f'an entry of "{key}" is not [path, label, class name]')
    return [record for record in found if record is not None]


def _read_original(path: Path, lists: Callable[[], Lists], draw: Draw) -> Lists | None:
    """A draw that the original code pickled, where ours would be the same kind of draw."""
    if draw.val_shots != VAL_SHOTS or draw.val_from_train:
        return None
    pickled = path.with_suffix(".pkl")
    if path.exists() or not pickled.exists():
        return None
    try:
        drawn = read_pickled_draw(pickled)
    except ValueError as err:
        logger.warning("The few-shot draw %s is not used: %s", pickled, err)
        return None
    train, val = (match_items(*pair, pickled) for pair in zip(drawn, lists()))
    return train, val


def _write(path: Path, drawn: Lists, split: str, draw: Draw) -> None:
    """One record per line; a folder that cannot be written costs only the kept file."""
    head = {
        "num_shots": draw.num_shots,
        "seed": draw.seed,
        "val_per_class": draw.val_per_class,
        "val_from_train": draw.val_from_train,
        "split": split,
        "drawn": fingerprint(*drawn),
    }
    lists = ",\n".join(
        f'"{key}": [\n' + ",\n".join(json.dumps(list(r)) for r in records) + "\n]"
        for key, records in zip(("train", "val"), drawn)
    )
    text = json.dumps(head, indent=0)[:-2] + ",\n" + lists + "\n}\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as err:
        logger.warning("The few-shot draw could not be kept as %s (%s).", path, err)
