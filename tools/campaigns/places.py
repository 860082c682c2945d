"""A full disk and a read-only place in the middle of a protocol; mounting them takes root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.campaigns.attempts import outcome
from tools.campaigns.traces import difference, leftovers

WORDS = (
    *("fewshot", "--trainer", "TaskRes", "--dataset", "toy_colors", "--shots", "1"),
    *("--seeds", "1 2 3", "--no-zeroshot", "--no-check", "--keep-going"),
    *("--workers", "2", "OPTIM.MAX_EPOCH", "4"),
)
LEVEL = Path("fewshot", "toy_colors", "TaskRes", "toy_1shots")
FULL, CLOSED = "size=64k", "ro,size=1m"  # options of the file systems of the first two seeds
ADVICE = {
    "seed1": "No space is left for {place}",
    "seed2": "{place}/.lock cannot be opened or written (Read-only file system)",
}


def play(folder: Path) -> tuple[list[str], list[str]]:
    """The protocol with such places, and again without; what was seen, and what is wrong."""
    if os.geteuid() != 0:
        raise ValueError("Mounting small file systems takes root. Run this as root.")
    level = folder / "output" / LEVEL
    faults = outcome([*WORDS, "--output", str(folder / "undisturbed")], folder)
    words = [*WORDS, "--output", str(folder / "output")]
    with mounted(level / "seed1", FULL), mounted(level / "seed2", CLOSED):
        said = outcome(words, folder)
        text = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")
        finished = [name for name in ("seed1", "seed2", "seed3") if is_done(level / name)]
    if said != ["exit status 1"] or finished != ["seed3"]:
        faults.append(f"with such places: {said or 'exit status 0'}, finished: {finished}")
    for name, advice in ADVICE.items():
        expected = advice.format(place=level / name)
        faults += [] if expected in text else [f"not said: {expected}"]
    faults += outcome(words, folder)
    faults += difference(folder / "undisturbed", folder / "output")
    faults += [f"{kind}: {', '.join(names)}" for kind, names in leftovers(folder).items()]
    lines = [f"3 runs, a full and a read-only place: {' '.join(said)}, then all are finished."]
    return lines, faults


def is_done(folder: Path) -> bool:
    """Whether a run is finished."""
    return (folder / "results.json").is_file()


@contextmanager
def mounted(place: Path, options: str) -> Iterator[None]:
    """A file system in memory of its own at a place."""
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
