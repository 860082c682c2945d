"""What runs keep under VLTUNE_CACHE: list it, check it, remove what is old or too much.

    python tools/cache.py list
    python tools/cache.py verify
    python tools/cache.py prune --max-size 20GB --older-than 30d
    python tools/cache.py clear --only resized --yes

A run makes again what it needs and does not find. `prune` removes the least recently used first;
answers of teachers over HTTP and few-shot draws of your own images go with `clear` alone. What a
running process writes to is left, and so is every file that no run made.

Exit status: 0; 1 where something is damaged or could not be removed; 2 for a wrong command line.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if __name__ == "__main__":
    from dassl.utils.interrupts import stand_by

    stand_by()

import argparse
import os
import pickle
import sqlite3
import time
from collections.abc import Sequence

from tabulate import tabulate

from dassl.flags import FlagParser
from dassl.terminal import answered, as_script
from dassl.utils.files import CACHE_VARIABLE, cache_dir, remove_leftovers
from dassl.utils.places import explain
from tools.caches.entries import Entry, entries_in, prune
from tools.caches.kinds import KINDS, not_counted_as_use
from tools.caches.sizes import parse_age, parse_size, shown_age, shown_size

SMALL = 10**6  # bytes; smaller ones of a kind share a line
DAMAGED = (OSError, ValueError, EOFError, RuntimeError, SyntaxError, KeyError, TypeError,
           AttributeError, pickle.UnpicklingError, sqlite3.Error)  # fmt: skip


def find_cache() -> Path:
    """The cache folder.

    Raises:
        ValueError: VLTUNE_CACHE names something else.
    """
    folder, given = cache_dir(), os.environ.get(CACHE_VARIABLE)
    here = f"{folder} ({CACHE_VARIABLE})" if given else str(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{here} is a file; expected the folder that runs keep their caches in.")
    if not folder.exists() and given:
        raise ValueError(
            f"{here} does not exist: no run has kept anything there. Check the name, or unset "
            f"{CACHE_VARIABLE} for ~/.cache/vltune."
        )
    held = {path.name for path in folder.glob("*") if not path.name.startswith(".")}
    ours = {kind.pattern.split("/")[0] for kind in KINDS.values()}
    if held and not held & ours:
        raise ValueError(
            f"{here} is not a cache folder: it holds {', '.join(sorted(held)[:3])}, and none of "
            f"{', '.join(sorted(ours))}. Set {CACHE_VARIABLE} to the folder that the runs had."
        )
    return folder


def print_list(entries: Sequence[Entry], *, is_brief: bool) -> None:
    """A line per entry, largest first; small ones of a kind share one."""
    now, rows = time.time(), []
    small: dict[str, list[Entry]] = {}
    for entry in entries:
        if is_brief and entry.size < SMALL:
            small.setdefault(entry.name, []).append(entry)
            continue
        with not_counted_as_use(list(entry.files)):
            rows.append((entry.size, entry.used, entry.name, entry.label))
    for name, few in small.items():
        size, used = sum(e.size for e in few), max(e.used for e in few)
        rows.append((size, used, name, f"{len(few)} below 1 MB: {KINDS[name].about}"))
    table = [
        (shown_size(size), f"{shown_age(now - used)} ago", name, text)
        for size, used, name, text in sorted(rows, reverse=True)
    ]
    align = ("right", "right", "left", "left")
    print(tabulate(table, ("size", "used", "kind", "what"), colalign=align if table else None))


def verify(entries: Sequence[Entry]) -> int:
    """Check what can be checked and name what is damaged; returns the exit status."""
    damaged = unknown = 0
    for entry in entries:
        with not_counted_as_use(list(entry.files)):
            try:
                found = entry.kind.check(entry.path) if entry.kind.check else None
            except DAMAGED as err:
                found = explain(err) or type(err).__name__
        unknown += found is None
        if found:
            damaged += 1
            print(f"damaged: {entry.name} {entry.path}: {found}")
    print(
        f"{len(entries) - damaged - unknown} sound, {damaged} damaged, {unknown} without a "
        "checksum or form that tells."
    )
    if damaged:
        print(
            "Damaged features are computed again by the run that needs them. Delete the other "
            "files; runs make them again."
        )
    return 1 if damaged else 0


class Remover:
    """Removes entries and says what became of them.

    Args:
        is_trial: remove nothing.
    """

    def __init__(self, *, is_trial: bool = False) -> None:
        self.is_trial = is_trial
        self.count = self.size = self.kept = 0

    def __call__(self, entry: Entry) -> bool:
        """Remove an entry; returns whether it is gone (in a trial: would be)."""
        try:
            is_gone = not entry.is_in_use if self.is_trial else entry.remove()
            reason = "a running process writes to it"
        except OSError as err:
            is_gone, reason = False, explain(err)
        if is_gone:
            self.count, self.size = self.count + 1, self.size + entry.size
        else:
            self.kept += 1
            print(f"kept: {entry.name} {entry.path}: {reason}", file=sys.stderr)
        return is_gone

    @property
    def text(self) -> str:
        """What was removed in all."""
        done = "would be removed" if self.is_trial else "removed"
        return f"{self.count} entries of {shown_size(self.size)} {done}"


def run_prune(cache: Path, entries: Sequence[Entry], args: argparse.Namespace) -> int:
    """`prune`; returns the exit status."""
    remover = Remover(is_trial=args.dry_run)
    if not args.dry_run:
        remove_leftovers(cache)
    last_use = None if args.older_than is None else time.time() - args.older_than
    left = prune(entries, remover, max_size=args.max_size, last_use=last_use)
    print(f"{remover.text}, {shown_size(left)} left in {cache}.")
    if args.max_size is not None and left > args.max_size:
        print(
            f"That is more than {shown_size(args.max_size)}: the rest is in use, or goes with "
            "clear alone (list shows it).",
            file=sys.stderr,
        )
        return 1
    return 1 if remover.kept else 0


def run_clear(cache: Path, entries: Sequence[Entry], *, is_sure: bool) -> int:
    """`clear`; returns the exit status."""
    if not is_sure:
        size = shown_size(sum(entry.size for entry in entries))
        print_list(entries, is_brief=True)
        print(
            f"clear would remove {len(entries)} entries of {size} from {cache}. Nothing is removed "
            "yet: add --yes.",
            file=sys.stderr,
        )
        return 1
    remove_leftovers(cache)
    remover = Remover()
    for entry in entries:
        remover(entry)
    print(f"{remover.text} from {cache}.")
    return 1 if remover.kept else 0


def make_parser() -> FlagParser:
    """Every flag of every action."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("action", choices=("list", "verify", "prune", "clear"))
    add("--only", choices=KINDS, nargs="+", metavar="KIND", help=f"of {', '.join(KINDS)}")
    add("--max-size", metavar="SIZE", help="prune: what may be left, as 20GB")
    add("--older-than", metavar="AGE", help="prune: what was not used for so long, as 30d")
    add("--dry-run", action="store_true", help="prune: remove nothing, say what would be")
    add("--yes", action="store_true", help="clear: do it")
    return parser


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, with sizes in bytes and ages in seconds."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.action != "prune":
        parser.refuse(args, ("max_size", "older_than", "dry_run"), f"with {args.action}")
    if args.action != "clear":
        parser.refuse(args, ("yes",), f"with {args.action}")
    if args.action == "prune" and args.max_size is None and args.older_than is None:
        parser.error("prune needs --max-size SIZE, as 20GB, or --older-than AGE, as 30d, or both.")
    for name, parse in (("max_size", parse_size), ("older_than", parse_age)):
        if (text := getattr(args, name)) is not None:
            try:
                setattr(args, name, parse(text))
            except ValueError as err:
                parser.error(f"--{name.replace('_', '-')} {err}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = parse_args(argv)
    return answered(lambda: act(args))


def act(args: argparse.Namespace) -> int:
    """Do what was asked for; returns the exit status."""
    cache = find_cache()
    entries = entries_in(cache, args.only or KINDS)
    if not entries:
        print(f"{cache} holds nothing{' of this kind' if args.only else ''}.")
        return 0
    if args.action == "verify":
        return verify(entries)
    if args.action == "prune":
        return run_prune(cache, entries, args)
    if args.action == "clear":
        return run_clear(cache, entries, is_sure=args.yes)
    print_list(entries, is_brief=not args.only)
    print(f"\n{len(entries)} entries of {shown_size(sum(e.size for e in entries))} in {cache}")
    return 0


if __name__ == "__main__":
    as_script(main)
