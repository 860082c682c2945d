"""Class names of ImageNet and its variants, and records of their id folders."""

from pathlib import Path

from .imagenet_classes import default_classnames
from .records import Record


def read_classnames(text_file: Path) -> dict[str, str]:
    """``classnames.txt``, a line ``wnid class name`` per class -> id -> name, in file order."""
    names = {}
    for number, line in enumerate(text_file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        wnid, _, name = line.strip().partition(" ")
        if not name:
            raise ValueError(f'{text_file}, line {number}: "{line}" is not "wnid class name".')
        names[wnid] = name.strip()
    return names


def name_files(root: Path, folder: str) -> tuple[Path, ...]:
    """Where class names are looked for: the dataset's own file, then ImageNet's."""
    return tuple(root / name / "classnames.txt" for name in dict.fromkeys((folder, "imagenet")))


def classnames_of(root: Path, folder: str) -> dict[str, str]:
    """Id -> class name for the dataset in ``folder``, from a file or from open_clip_torch."""
    for path in name_files(root, folder):
        if path.exists():
            return read_classnames(path)
    looked = " and ".join(str(path) for path in name_files(root, folder))
    print(f"No class names in {looked}: using those of open_clip_torch (the same list)")
    return default_classnames()


def folder_records(
    listing: dict[str, list[str]], ids: list[str], names: dict[str, str], *, prefix: str = ""
) -> list[Record]:
    """Listing of id folders -> records, classes in the order of ``ids``."""
    require_names(ids, names)
    start = f"{prefix}/" if prefix else ""
    return [
        Record(start + path, label, names[wnid])
        for label, wnid in enumerate(ids)
        for path in listing.get(wnid, ())
    ]


def require_names(ids: list[str], names: dict[str, str]) -> None:
    """Raise a ValueError if an id has no class name."""
    missing = [wnid for wnid in ids if wnid not in names]
    if missing:
        raise ValueError(
            f"The class {missing[0]} ({len(missing)} such) is in no line of classnames.txt. Remove "
            "its folder, or complete the file (python tools/check_data.py imagenet)."
        )
