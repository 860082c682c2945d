"""What to give in place of a folder that is not a run's: the run around it, or those below it."""

from collections.abc import Iterator
from pathlib import Path

from dassl.utils.files import few_folders

MARKS = ("results.json", "config.yaml", "checkpoint")  # files of a run, or of a model's folder
SHOWN = 3  # runs in a message


def runs_near(given: str | Path) -> str:
    """A sentence that names runs near a path: around it, below it, or beside a misspelt one.

    Empty if there are none.
    """
    path = Path(given)
    around = next((p for p in path.absolute().parents[:2] if is_run(p)), None)
    if around is not None and path.exists():
        return f"That lies in the run {around}: give that folder."
    there = next((p for p in (path, *path.parents) if p.is_dir()), None)
    if there is None or (there != path and len(there.parts) < 2):
        return ""
    runs = []
    for run in runs_below(there):
        runs.append(run.as_posix())
        if len(runs) > SHOWN:
            break
    end = ", ..." if len(runs) > SHOWN else "."
    return f"Runs below {there}: {', '.join(runs[:SHOWN])}{end}" if runs else ""


def is_run(folder: Path) -> bool:
    """Whether a folder is that of one run: it holds its config or results."""
    return any((folder / name).is_file() for name in MARKS[:2])


def runs_below(folder: Path) -> Iterator[Path]:
    """The folders of runs below a folder: few folders deep, and of many only the first."""
    for parent, folders, files in few_folders(folder):
        if not set(MARKS[:2]).isdisjoint(files):
            folders.clear()
            if parent != folder:
                yield parent
