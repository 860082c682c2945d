"""Config files by their path, and how messages name them."""

from __future__ import annotations

from pathlib import Path

from dassl.utils.text import did_you_mean

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "configs"


def shown(path: Path) -> str:
    """Relative to the repository where possible: commands stay short and portable."""
    path = path.absolute()
    return path.relative_to(REPOSITORY).as_posix() if path.is_relative_to(REPOSITORY) else str(path)


def find_yaml(given: str | Path) -> Path | None:
    """Absolute path of a file, given also relative to the repository; None if there is none."""
    return next((p for p in (Path(given).absolute(), REPOSITORY / given) if p.is_file()), None)


def existing_yaml(given: str | Path, flag: str) -> Path:
    """A YAML file by its path, also relative to the repository.

    Raises:
        FileNotFoundError: naming the files that look alike.
    """
    path = find_yaml(given)
    if path is not None:
        return path
    folder = Path(given).parent if Path(given).parent.is_dir() else REPOSITORY / Path(given).parent
    if not folder.is_dir():
        folder = CONFIGS
    known = sorted(shown(path) for path in folder.rglob("*.yaml") if path.name != "recipes.yaml")
    raise FileNotFoundError(f"{flag} {given}: no such file. {did_you_mean(str(given), known)}")
