"""Spoil files at random, let their readers read them, and count what happens.

    python tools/fuzz.py --inputs 1000                 every reader
    python tools/fuzz.py yaml split --inputs 5000 --seed 3
    python tools/fuzz.py yaml --seconds 600            as many as there is time for

A reader shall read a file or answer with one sentence that names it; anything else (a traceback, a
hang, memory without bound, the end of the process) is a fault, and its input is kept. With
--seconds, and where atheris is installed (pip install atheris), inputs follow the code that they
reach: what makes a reader take a new branch is spoiled further.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from dassl.utils.interrupts import stand_by

    stand_by()

import hashlib
import importlib
import inspect
import io
import itertools
import json
import logging
import math
import os
import random
import re
import resource
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, NoReturn

from tabulate import tabulate

from dassl.flags import FlagParser
from dassl.terminal import as_script

SECONDS = 10  # for one input
MOST_BYTES = 10**9  # that reading one may add to the memory of the process
GUIDE = "atheris"  # libFuzzer for Python; random inputs without it
FOLLOWED = ("clip", "dassl", "datasets", "tools", "trainers", "yaml")  # whose branches guide it
MOST_KEPT = 20  # inputs of faults per reader
FAULTS = ("unclear", "traceback", "hang", "memory", "ended the process")
TOKENS = (
    *(b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\x80", b"\x1b[2J", b"\r\n", b"\n", b"\t", b","),
    *(b'"', b"'", b"[", b"]", b"{", b"}", b":", b"- ", b"? ", b"&a ", b"*a", b"!!int ", b"<<: *a"),
    *(b"NaN", b"Infinity", b"-1", b"1e999", b"300000000", b"9" * 5000, b"null", b"true", b"%"),
    *(b"[" * 3000, b"../../x", b"\xed\xb3\xa9", b"* accuracy: ", b"!!python/object:os.system x"),
)


@dataclass(frozen=True)
class Target:
    """A reader: name of its file, files that are right, and what reads one (its only argument)."""

    file: str
    samples: tuple[bytes, ...]
    read: Callable[[Path], Any]
    raises: tuple[type[Exception], ...] = (ValueError, OSError, KeyError)


def targets() -> dict[str, Target]:
    """Every reader by name."""
    from clip.checkpoint import read_weights
    from dassl.config.name_lists import read_names
    from dassl.config.yaml_files import read_config, read_yaml
    from dassl.engine.command.finished import find_finished
    from dassl.engine.records.writer import MetricsLog
    from dassl.utils import load_checkpoint
    from dassl.utils.checkpoint import read_tensors
    from datasets.imagenet_names import read_classnames
    from datasets.own.table import list_table
    from datasets.records import read_split_file
    from datasets.sampling import _read as read_draw
    from tools.results.legacy import legacy_report
    from tools.results.records import load_records
    from tools.results.report import as_csv, as_text, build_tables
    from trainers.common.text.descriptions import read_cupl

    def table(path: Path) -> None:
        tables = build_tables(load_records([path.parent]).records, all_splits=True)
        as_text(tables), as_csv(tables)

    split = _json({s: [[f"{s}/a.jpg", 0, "cat"], ["b.jpg", 1, "dog"]] for s in _SPLITS})
    yaml = (_CONFIG, b"a: &a {x: 1}\nb: [*a, *a]\nc: {<<: *a, y: 2020-01-01, z: 0x1f, w: 1e3}\n")
    checkpoints = _checkpoints()
    weights = (ValueError, OSError, RuntimeError)
    lists = (b'["a", "b"]', b'{"0": "a", "1": "b"}', b'{"a": 0, "b": 1}')
    cupl = (_json({"cat": ["A cat."], "dog": ["A dog.", "It barks."]}),)
    names = (b"cat\ndog\n", b"0 cat\n1 dog\n", b"id,name\n0,cat\n1,dog\n", b"cat, kitty\ndog\n")
    yolo = (b"nc: 2\nnames: [cat, dog]\n", b"names:\n  0: cat\n  1: dog\n")
    wnids = b"n01440764 tench\nn01443537 goldfish\n"
    log = b"* accuracy: 1.0%\nFinish training\n* accuracy: 71.5%\n* macro_f1: 70.1%\n"
    return {
        "split": Target("split.json", (split,), read_split_file),
        "yaml": Target("x.yaml", yaml, read_yaml),
        "config": Target("config.yaml", (_CONFIG,), read_config),
        "results": Target("results.json", (_RESULTS,), lambda p: find_finished(p.parent, None)),
        "tables": Target("results.json", (_RESULTS,), table),
        "log": Target("log.txt", (log,), lambda p: legacy_report(p.parents[1], style="coop")),
        "foreign log": Target("log.txt", (log,), table),
        "metrics": Target("metrics.jsonl", (_METRICS,), lambda p: _metrics(MetricsLog, p)),
        "checkpoint": Target("x.pth", checkpoints, load_checkpoint),
        "tensors": Target("x.pth", checkpoints, read_tensors),
        "weights": Target("x.pt", checkpoints, read_weights, weights),
        "draw": Target("draw.json", (_DRAW,), lambda p: read_draw(p, "s")),
        "names.txt": Target("names.txt", names, lambda p: read_names(str(p), "--classnames")),
        "names.csv": Target("names.csv", names[2:3], lambda p: read_names(str(p), "--classnames")),
        "names.json": Target("names.json", lists, lambda p: read_names(str(p), "--classnames")),
        "names.yaml": Target("n.yaml", yolo, lambda p: read_names(str(p), "--classnames")),
        "table": Target(
            "t.csv", (b"path,label,split\na.jpg,cat,train\nb.jpg,dog,test\n",), list_table
        ),
        "classnames": Target("classnames.txt", (wnids,), read_classnames),
        "cupl": Target("cupl.json", cupl, lambda p: read_cupl(p, ["cat", "dog"])),
    }


_SPLITS = ("train", "val", "test")
_CONFIG = b"TRAINER:\n  NAME: CoOp\nSEED: 1\nOPTIM:\n  LR: 0.002\n  STEPS: [1, 2]\nROOT: 'data'\n"
_METRICS = b'{"epoch": 1, "loss": 0.5}\n{"epoch": 2, "loss": null}\n{"step": 3}\n'


def _json(content: Any) -> bytes:
    return json.dumps(content).encode()


_RESULTS = _json(
    {
        "protocol": "fewshot",
        "trainer": "CoOp",
        "dataset": "toy_objects",
        "shots": 1,
        "seed": 1,
        "target_domains": ["a"],
        "selection": "last",
        "labelled_images": {"train": 3, "val": 0},
        "stream": {"images": 3, "of": 5},
        "metrics": {"test": {"accuracy": 71.5, "macro_f1": 70.0}},
        "evaluated": {"model_dir": "x"},
        "finished": True,
    }
)
_DRAW = _json({"split": "s", "train": [["a.jpg", 0, "cat"]], "val": [["b.jpg", 0, "cat"]]})


def _metrics(log: type, path: Path) -> None:
    log(path.parent, start_epoch=2).close()


def _checkpoints() -> tuple[bytes, ...]:
    """The same small checkpoint in torch's two formats and as safetensors."""
    import torch
    from safetensors.torch import save

    tensors = {"w": torch.ones(2, 3)}
    content = {"state_dict": tensors, "epoch": 1, "config": _CONFIG.decode()}
    kept = []
    for is_zip in (True, False):
        torch.save(content, stream := io.BytesIO(), _use_new_zipfile_serialization=is_zip)
        kept.append(stream.getvalue())
    return (*kept, save(tensors))


def spoiled(sample: bytes, rng: random.Random) -> bytes:
    """A file with one to four faults: bytes changed, cut, doubled, moved, or words put between."""
    data = bytearray(sample)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        start = rng.randint(0, len(data))
        stop = min(len(data), start + rng.choice((1, 2, 8, 64)))
        kind = rng.randrange(9)
        if kind == 0 and data:
            data[min(start, len(data) - 1)] = rng.randrange(256)
        elif kind == 1:
            del data[start:stop]
        elif kind == 2:
            data[start:start] = data[start:stop] * rng.choice((1, 3, 100))
        elif kind == 3:
            data[start:start] = rng.choice(TOKENS)
        elif kind == 4:
            data[start:stop] = rng.choice(TOKENS)
        elif kind == 5 and rng.random() < 0.3:
            del data[start:]
        else:  # another value in the place of a word
            words = list(re.finditer(rb"[\w.]+|\"[^\"]*\"", data[: 2**16]))
            if words:
                word = rng.choice(words)
                data[word.start() : word.end()] = rng.choice(TOKENS)
    return bytes(data)


def outcome(target: Target, data: bytes, folder: Path) -> str:
    """What a reader makes of a file: "read", "answered", or one of FAULTS with the reason."""
    path = folder / "run" / "seed1" / target.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.signal(signal.SIGALRM, _too_late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        target.read(path)
        found = "read"
    except _TooLate:
        found = f"hang: more than {SECONDS} s"
    except Exception as err:  # what it is decides
        text = str(err.args[0]) if isinstance(err, KeyError) and err.args else str(err)
        is_clear = isinstance(err, target.raises) and (target.file in text or "seed1" in text)
        kind = "unclear" if isinstance(err, target.raises) else "traceback"
        found = "answered" if is_clear else f"{kind}: {type(err).__name__}: {text[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        path.unlink(missing_ok=True)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return f"memory: {grown:,} bytes" if grown > MOST_BYTES else found


class _TooLate(BaseException):
    """The time for one input is up; no reader catches it."""


def _too_late(*_: object) -> NoReturn:
    raise _TooLate


def inputs(target: Target, count: float, seed: str) -> Iterator[bytes]:
    """The same spoiled files for the same seed."""
    for number in itertools.takewhile(lambda number: number < count, itertools.count()):
        rng = random.Random(f"{seed}/{number}")
        yield spoiled(rng.choice(target.samples), rng)


def outcomes(
    target: Target,
    count: float,
    seed: str,
    *,
    seconds: float = math.inf,
    guided: bool = False,
    keep: Path | None = None,
) -> list[str]:
    """One outcome per input, read in a process of their own that may die.

    Args:
        target: the reader.
        count: of inputs.
        seed: other inputs for another seed.
        seconds: after which no further input is made.
        guided: inputs follow the code that they reach.
        keep: the folder for inputs of faults; None: they are not kept.
    """
    found: list[str] = []
    end = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < end:
        receive, send = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(receive)
            give = _follow_code if guided else _give_random
            _try_all(target, partial(give, target, count, seed, len(found), end), send, keep)
        os.close(send)
        with os.fdopen(receive, encoding="utf-8") as lines:
            found += [json.loads(line) for line in lines if line.endswith("\n")]
        _, status = os.waitpid(child, 0)
        if status and len(found) < count:
            found.append(f"ended the process: status {status}")
    return found


def _try_all(
    target: Target, give: Callable[[Callable[[bytes], None]], None], send: int, keep: Path | None
) -> NoReturn:
    """In the process of the reader: try what ``give`` gives, and tell what came of it."""
    logging.disable()
    kept = 0
    with tempfile.TemporaryDirectory() as folder, os.fdopen(send, "w", encoding="utf-8") as lines:

        def one(data: bytes) -> None:
            nonlocal kept
            text = outcome(target, data, Path(folder))
            if ":" in text and keep is not None and kept < MOST_KEPT:
                kept += 1
                path = keep / f"{hashlib.sha256(data).hexdigest()[:8]}-{target.file}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                text += f" ({path})"
            print(json.dumps(text), file=lines, flush=True)

        give(one)
    os._exit(0)


def _give_random(
    target: Target, count: float, seed: str, first: int, end: float, one: Callable[[bytes], None]
) -> None:
    for number, data in enumerate(inputs(target, count, seed)):
        if number >= first:
            one(data)
            if time.monotonic() > end:
                return


def _follow_code(
    target: Target, count: float, seed: str, first: int, end: float, one: Callable[[bytes], None]
) -> None:
    """Let atheris give inputs; libFuzzer ends the process itself."""
    guide = importlib.import_module(GUIDE)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # its reports
    for function in _functions():
        guide.instrument_func(function)
    with tempfile.TemporaryDirectory() as folder:
        for number, sample in enumerate(target.samples):
            (Path(folder) / str(number)).write_bytes(sample)
        words = Path(folder, "words")
        quoted = ("".join(f"\\x{byte:02x}" for byte in token) for token in TOKENS if token)
        words.write_text("".join(f'"{word}"\n' for word in quoted if len(word) < 200))
        limits = f"-max_total_time={max(1, int(end - time.monotonic()))}", "-timeout=0"
        start = f"-seed={random.Random(f'{seed}/{first}').randrange(1, 2**31)}"
        options = [*limits, start, "-rss_limit_mb=0", f"-dict={words}", folder]
        guide.Setup([sys.argv[0], *options], one)
        guide.Fuzz()


def _functions() -> Iterator[Any]:
    """The functions and methods of the packages that are followed, as far as they are imported."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] not in FOLLOWED:
            continue
        for holder in (module, *vars(module).values()):
            if holder is module or inspect.isclass(holder) and holder.__module__ == name:
                members = vars(holder).values()
                yield from (f for f in members if inspect.isfunction(f) and f.__module__ == name)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 1 if there is a fault."""
    known = targets()
    parser = FlagParser(description=__doc__.splitlines()[0])
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of: {', '.join(known)}")
    parser.add_argument("--inputs", type=int, default=1000, help="in all, over the readers")
    parser.add_argument("--seconds", type=float, default=0, help="for each reader, instead")
    parser.add_argument("--seed", default="0", help="other inputs for another seed")
    parser.add_argument("--keep", type=Path, default=Path("output/fuzz"), help="inputs of faults")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.readers if name not in known]:
        parser.error(f"there is no reader {unknown[0]}. Known: {', '.join(known)}")
    chosen = {name: known[name] for name in args.readers or known}
    guided = bool(args.seconds) and find_spec(GUIDE) is not None
    count = math.inf if args.seconds else -(-args.inputs // len(chosen))
    rows, faults = [], []
    for name, target in chosen.items():
        found = outcomes(
            target,
            count,
            f"{args.seed}/{name}",
            seconds=args.seconds or math.inf,
            guided=guided,
            keep=args.keep / name,
        )
        counts = Counter(text.partition(":")[0] for text in found)
        rows.append([name, len(found), *(counts[kind] for kind in ("read", "answered", *FAULTS))])
        faults += [f"{name} {n}: {text}" for n, text in enumerate(found) if ":" in text]
    rows.append(["all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])])
    print(tabulate(rows, ["reader", "inputs", "read", "answered", *FAULTS]))
    if args.seconds:
        print(f"Inputs {'followed the code (atheris)' if guided else 'were random'}.")
    print(*faults[: MOST_KEPT * len(chosen)], sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    as_script(main)
