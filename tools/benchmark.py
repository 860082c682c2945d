"""Time the main paths, each beside its straightforward form, in one run.

python tools/benchmark.py                    # list
python tools/benchmark.py text_tower mma     # run some
python tools/benchmark.py all --json bench.json
python tools/benchmark.py gpu --json gpu.json    # on a machine with a GPU, at most 6 minutes
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from dassl.utils.interrupts import stand_by

    stand_by()

import argparse
import importlib
import json
import os
import pkgutil
import platform
from collections.abc import Sequence

import torch
from tabulate import tabulate

from dassl.flags import FlagParser
from dassl.terminal import as_script
from tools import benchmarks

NEEDS_GPU = "gpu"


def known_benchmarks() -> list[str]:
    """Names of the modules in tools/benchmarks that can be run."""
    return sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__) if m.name[0] != "_")


def environment(threads: int) -> dict[str, str | int]:
    """What the figures depend on, beside the code."""
    found: dict[str, str | int] = {
        "torch": torch.__version__,
        "threads": threads,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        "processor": platform.processor() or "CPU",
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda or ""
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmarks that are named and print one table."""
    known = known_benchmarks()
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"all (but gpu), or some of: {', '.join(known)}")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--repeat", type=int, default=3, help="repetitions; the median counts")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the code")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    args = parser.parse_args(argv)
    others = [name for name in known if name != NEEDS_GPU]
    names = others if args.names == ["all"] else args.names
    unknown = sorted(set(names) - set(known))
    if unknown or not names:
        wrong = f"Unknown: {', '.join(unknown)}. " if unknown else ""
        sys.exit(f"benchmark.py: {wrong}Benchmarks: {', '.join(known)}, or all (but gpu).")
    torch.set_num_threads(args.threads)
    rows = []
    for name in names:
        module = importlib.import_module(f"tools.benchmarks.{name}")
        rows += [{"benchmark": name, **row} for row in module.run(args)]
    where = environment(args.threads)
    print(", ".join(f"{name} {value}" for name, value in where.items()))
    print(tabulate(rows, headers="keys", floatfmt=".4g"))
    if args.json:
        args.json.write_text(json.dumps({**where, "rows": rows}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    as_script(main)
