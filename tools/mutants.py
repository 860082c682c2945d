"""Plant faults in a copy of this repository, one at a time, and see whether the tests notice.

    python tools/mutants.py                      # every fault, by the tests that must notice it
    python tools/mutants.py --only "taskres_*"   # some faults
    python tools/mutants.py --all-tests          # by the whole suite
    python tools/mutants.py --list

Golden cases prove the mathematics; these faults prove that the tests see what lies between a
command and that mathematics: a setting that is not handed on, a schedule that does not step, a
protocol that tests the wrong classes. They are data (tools/mutation/faults.yaml): a name, a text of
a file, what stands there instead, and the tests that must notice.

Not part of CI: all of it takes about an hour. The same command resumes: outcomes are kept in
--results and count as long as no file of the tree and no fault changes. In a changed tree the test
that noticed a fault before is tried first, alone, which takes a third of the time. The working tree
is never touched, so that nothing has to be repaired after a kill. The exit status is 0 where every
fault was noticed, 1 where one was not, 2 where the faults or the arguments are wrong.

Why no library: mutmut and cosmic-ray change operators and constants everywhere, thousands of times,
and ask whether any test of the suite fails. One run of the tests of a method takes half a minute
here, and most such changes break at once. The faults that got through were chosen wrongly wired
lines, each with an owner among the tests; neither library takes a list of those, nor the tests that
go with each.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from dassl.utils.interrupts import stand_by

    stand_by()

import argparse
import hashlib
import shlex
import tempfile
from collections.abc import Sequence

from tabulate import tabulate

from dassl.flags import FlagParser
from dassl.terminal import as_script
from dassl.utils.interrupts import exit_status
from tools.mutation import faults as faults_module
from tools.mutation.faults import Fault, StaleFault, chosen, read_faults
from tools.mutation.runs import NOT_RUN, NOTICED, SURVIVED, Copy, Outcome, Results

ROOT = Path(__file__).resolve().parents[1]
WHOLE_SUITE = ("tests",)
LIMIT, SUITE_LIMIT = 900.0, 5400.0  # seconds


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line; see --help."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", action="append", default=[], metavar="NAME", help="a fault, *: any; repeatable")
    add("--list", action="store_true", help="print the faults and their tests, run nothing")
    add("--all-tests", action="store_true", help="run the whole suite instead of their own tests")
    add(
        "--limit",
        type=float,
        help=f"seconds per fault ({LIMIT:.0f}, whole suite {SUITE_LIMIT:.0f})",
    )
    add("--results", type=Path, default=ROOT / "output" / "mutants.json", help="file of outcomes")
    add("--faults", type=Path, default=faults_module.FILE, help="another list of faults")
    add("--root", type=Path, default=ROOT, help="repository that the faults are in")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = parse_args(argv)
    try:
        found = chosen(read_faults(args.faults), args.only)
        if args.list:
            print(listing(found))
            return 0
        check_all(found, args.root)
        with tempfile.TemporaryDirectory(prefix="mutants_") as folder:
            outcomes = run_all(found, args, Path(folder))
    except (OSError, RuntimeError, ValueError) as err:
        print(f"Error: {err}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as err:
        print("\nInterrupted. Run the same command again to resume.", file=sys.stderr)
        return exit_status(err)
    print(f"\n{table(found, outcomes)}")
    return int(any(outcome.kind != NOTICED for outcome in outcomes.values()))


def check_all(found: Sequence[Fault], root: Path) -> None:
    """Refuse a list with faults that no longer fit the tree; names all of them.

    Raises:
        StaleFault
    """
    stale = []
    for fault in found:
        try:
            fault.check(root)
        except StaleFault as err:
            stale.append(str(err))
    if stale:
        raise StaleFault(f"{len(stale)} of {len(found)} faults are stale.\n" + "\n".join(stale))


def run_all(found: Sequence[Fault], args: argparse.Namespace, folder: Path) -> dict[str, Outcome]:
    """Name -> outcome; tests that fail on the tree as it is are told, too."""
    limit = args.limit or (SUITE_LIMIT if args.all_tests else LIMIT)
    copy = Copy(args.root, folder)
    results = Results(args.results, copy.digest)
    outcomes: dict[str, Outcome] = {}
    tests = {f.name: WHOLE_SUITE if args.all_tests else f.tests for f in found}
    keys = {f.name: _digest(f.digest, *tests[f.name]) for f in found}
    waiting = [fault for fault in found if results.get(keys[fault.name]) is None]
    witnesses = find_witnesses(waiting, copy, results, limit=SUITE_LIMIT)
    for number, fault in enumerate(found, 1):
        name = fault.name
        print(f"[{number}/{len(found)}] {name}: ", end="", flush=True)
        outcome = results.get(keys[name])
        note = " (found before)" if outcome else ""
        if outcome is None:
            outcome = run_one(copy, fault, tests[name], results, witnesses.get(name), limit=limit)
            results.keep(keys[name], name, outcome)
        outcomes[name] = outcome
        print(f"{described(outcome)}{note}", flush=True)
    return outcomes


def find_witnesses(
    found: Sequence[Fault], copy: Copy, results: Results, *, limit: float
) -> dict[str, str]:
    """Fault -> the one of its tests that noticed it in an earlier tree, and that passes in this."""
    known = {
        fault.name: witness
        for fault in found
        if (witness := results.witnesses.get(fault.name))
        and witness.split("::")[0] in [test.split()[0].split("::")[0] for test in fault.tests]
    }
    passing = copy.passing(list(known.values()), limit=limit)
    return {name: witness for name, witness in known.items() if witness in passing}


def run_one(
    copy: Copy,
    fault: Fault,
    tests: Sequence[str],
    results: Results,
    witness: str | None,
    *,
    limit: float,
) -> Outcome:
    """The outcome of a fault; its tests must pass without it, as the witness does."""
    if witness is not None:
        with copy.planted(fault):
            outcome = copy.test([witness], limit=limit)
        if outcome.kind == NOTICED:
            return outcome
    key = _digest("without a fault", *tests)
    clean = results.get(key)
    if clean is None:
        clean = copy.test(tests, limit=limit)
        results.keep(key, f"without a fault: {', '.join(tests)}", clean)
    if clean.kind != SURVIVED:
        return Outcome(NOT_RUN, f"without a fault: {clean.kind}, {clean.by}", clean.seconds)
    with copy.planted(fault):
        return copy.test(tests, limit=limit)


def described(outcome: Outcome) -> str:
    """An outcome as a few words."""
    by = {NOTICED: f" by {outcome.by}", SURVIVED: ""}.get(outcome.kind, f" ({outcome.by})")
    shown = outcome.kind.upper() if outcome.kind != NOTICED else outcome.kind
    return f"{shown}{by}, {outcome.seconds:.0f} s"


def table(found: Sequence[Fault], outcomes: dict[str, Outcome]) -> str:
    """A row per fault, those that got through last, and what to do about them."""
    last = [fault for fault in found if outcomes[fault.name].kind != NOTICED]
    first = [fault for fault in found if fault not in last]
    rows = []
    for fault in [*first, *last]:
        outcome = outcomes[fault.name]
        rows.append((fault.name, fault.file, outcome.kind, outcome.by, f"{outcome.seconds:.0f}"))
    text = tabulate(rows, ("fault", "file", "outcome", "first test that failed", "s"))
    counts = f"{len(first)} of {len(found)} faults were noticed."
    told = [
        f"{outcomes[fault.name].kind}: {fault.name}, {fault.file}\n  {fault.old}\n  -> {fault.new}"
        f"\n  by: {', '.join(fault.tests)}"
        for fault in last
    ]
    return "\n\n".join([text, counts, *told])


def listing(found: Sequence[Fault]) -> str:
    """Faults, where they are planted and who must notice."""
    return "\n".join(
        f"{fault.name}  ({fault.file})\n  {fault.old}\n  -> {fault.new}\n"
        f"  pytest {' | '.join(fault.tests)}"
        for fault in found
    )


def _digest(*words: str) -> str:
    return hashlib.sha256(shlex.join(words).encode()).hexdigest()


if __name__ == "__main__":
    as_script(main)
