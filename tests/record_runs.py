"""Record the numbers of whole runs again (tests/golden_runs), and print what has changed.

python tests/record_runs.py                  # all cases
python tests/record_runs.py taskres mma      # some
python tests/record_runs.py --dry-run        # print what would change, write nothing
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads, see train.py
TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS / "support"), str(TESTS.parent)]

SHOWN = 20  # changed numbers of a case that are printed


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    from golden_runs import recorded
    from golden_runs.cases import CASES
    from golden_runs.perform import perform
    from golden_runs.world import make_world

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", help=f"default: all of {', '.join(CASES)}")
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    args = parser.parse_args(argv)
    if unknown := sorted(set(args.cases) - set(CASES)):
        parser.error(f"unknown case {unknown[0]}; known: {', '.join(CASES)}")
    for name in args.cases or CASES:
        with tempfile.TemporaryDirectory() as folder:
            numbers = perform(CASES[name], make_world(Path(folder)))
        changed = recorded.differences(numbers, recorded.read(name))
        print(f"{name}: {len(changed)} changes" if changed else f"{name}: unchanged")
        print("".join(f"  {line}\n" for line in changed[:SHOWN]), end="")
        if changed and not args.dry_run:
            recorded.write(name, numbers)


if __name__ == "__main__":
    main()
