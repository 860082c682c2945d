"""24 short runs of mixed methods in one process: what it holds does not grow, and results are those
of 24 fresh processes, two at a time."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.campaigns.attempts import outcome
from tools.campaigns.traces import difference, leftovers

TRAINERS = "TaskRes,CoOp,MMA,TipAdapterF,AMU,CLAP,CLIPAdapter,KgCoOp"
WORDS = (
    *("fewshot", "--trainer", TRAINERS, "--dataset", "toy_colors", "--shots", "1"),
    *("--seeds", "1 2 3", "--no-zeroshot", "--no-check"),
)
PASSES = 3  # over the methods, one per seed
MOST_GROWTH = 30e6  # bytes, of the last pass
MEGABYTE = 1e6


@dataclass(frozen=True)
class Footprint:
    """What a process holds: resident bytes, and numbers of open files, children and threads."""

    memory: int
    files: int
    children: int
    threads: int


def footprint() -> Footprint:
    """Of this process (Linux), after what is free has been given back."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    files = len(os.listdir("/proc/self/fd")) - 1  # that of the list itself
    children = len(multiprocessing.active_children())
    return Footprint(pages * os.sysconf("SC_PAGE_SIZE"), files, children, threading.active_count())


def repeated(passes: Sequence[Sequence[Callable[[], object]]]) -> list[Footprint]:
    """Do what each pass lists; the footprint after each."""
    found = []
    for actions in passes:
        for act in actions:
            act()
        found.append(footprint())
    return found


def growth(found: Sequence[Footprint]) -> list[str]:
    """What the last pass has left that the one before it had not."""
    before, after = (asdict(each) for each in found[-2:])
    limits = {"memory": MOST_GROWTH}
    return [
        f"{name} grew from {before[name]} to {after[name]}"
        for name in before
        if after[name] - before[name] > limits.get(name, 0)
    ]


def in_one_process(passes: Sequence[Sequence[Sequence[str]]], log: Path) -> list[Footprint]:
    """Footprints of a fresh process after each pass over runs, given as arguments of train.py."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(_train_all, (passes, log))
        pool.close()  # the end of the block would kill the process while it cleans up
        pool.join()
        return found


def _train_all(passes: Sequence[Sequence[Sequence[str]]], log: Path) -> list[Footprint]:
    import train

    def action(words: Sequence[str]) -> Callable[[], object]:
        return lambda: train.main(words)

    with log.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        return repeated([[action(words) for words in each] for each in passes])


def play(folder: Path) -> tuple[list[str], list[str]]:
    """Do the runs in both ways; what was measured, and what is wrong."""
    from tools.protocol import make_requests, parse_args, plan_all

    runs = plan_all(make_requests(*parse_args([*WORDS, "--output", str(folder / "one")])))
    seeds = [[r for r in runs if r.output_dir.name == f"seed{n + 1}"] for n in range(PASSES)]
    temporary = folder / "temporary"
    temporary.mkdir(parents=True)
    kept = {"TMPDIR": str(temporary), "VLTUNE_CACHE": str(folder / "cache")}
    kept["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")  # torch makes it when it loads
    with _environment({**kept, "OMP_NUM_THREADS": "1"}):
        passes = [[run.arguments() for run in each] for each in seeds]
        found = in_one_process(passes, folder / "one.txt")
        said = outcome([*WORDS, "--workers", "2", "--output", str(folder / "two")], folder)
    faults = [*growth(found), *said, *difference(folder / "one", folder / "two")]
    faults += [f"{kind}: {', '.join(names)}" for kind, names in leftovers(folder).items()]
    if left := [path.name for path in temporary.iterdir()]:
        faults.append(f"temporary files: {', '.join(left)}")
    lines = [f"{len(runs)} runs of {len(seeds[0])} methods in one process; after each pass:"]
    lines += [
        f"  {each.memory / MEGABYTE:.0f} MB, {each.files} open files, {each.children} children, "
        f"{each.threads} threads"
        for each in found
    ]
    return lines, faults


@contextlib.contextmanager
def _environment(values: dict[str, str]):
    before = dict(os.environ)
    os.environ.update(values)
    tempfile.tempdir = None
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        tempfile.tempdir = None
