"""Kill and signal small runs at random moments, and compare how they end with undisturbed ones.

    python tools/campaign.py kills --moments 30
    python tools/campaign.py signals --moments 20 --only run,protocol
    python tools/campaign.py soak        also: nodes, places, hosts (tools/campaigns)

Each command is disturbed a few times and given again until it ends; then its checkpoints, scores
and results must be those of an undisturbed one, bit for bit, and nothing may be left over. Moments
are drawn from --seed; the same command resumes an interrupted campaign. Linux only.

Exit status: 0; 1 where a run differs or something is left over; 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import json
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tabulate import tabulate

from dassl.flags import FlagParser
from dassl.terminal import answered
from dassl.utils.interrupts import INTERRUPTED, REQUEUE
from tools.campaigns.attempts import Attempt, Disturbance, attempt
from tools.campaigns.subjects import SUBJECTS, Subject

KINDS = {  # signals of one trial
    "kills": ("SIGKILL",) * 5,
    "signals": ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"),
}
SCENES = ("soak", "nodes", "places", "hosts")  # modules of tools/campaigns
MOMENTS = {"kills": 30, "signals": 20}
MOST_ATTEMPTS = 12  # of one trial
LONGEST = 60.0  # seconds within which the rest of a command ends after a part of it was killed
LATE = 20.0  # seconds in which a command that has got a signal may still end with status 0
RECORDS = "trials.jsonl"


def make_parser() -> FlagParser:
    """The command line."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("kind", choices=[*KINDS, *SCENES], help="kill -9, signals that a run answers, or a scene")
    add("--moments", type=int, help="of every signal and command (default: 30 kills, 20 signals)")
    add("--only", default=",".join(SUBJECTS), help="commands, of: %(default)s")
    add("--seed", type=int, default=1, help="of the moments (default: 1)")
    add("--output", default="./campaign", help="folder of the trials (default: ./campaign)")
    return parser


class Campaign:
    """The trials of one command under one kind of signals.

    Args:
        name: of the command, in SUBJECTS.
        kind: of signals, in KINDS.
        folder: of trials and records.
        seed: of the moments.
    """

    def __init__(self, name: str, kind: str, *, folder: Path, seed: int) -> None:
        self.name, self.kind, self.folder, self.seed = name, kind, folder, seed
        self.subject: Subject = SUBJECTS[name]

    def records(self) -> list[dict[str, Any]]:
        """Those of all trials so far, the undisturbed one (trial 0) first."""
        path = self.folder / RECORDS
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        mine = (self.name, self.seed)
        found = [json.loads(line) for line in lines]
        return [
            record
            for record in found
            if (record["name"], record["seed"]) == mine and record["kind"] in ("", self.kind)
        ]

    def hits(self) -> Counter[str]:
        """Signal -> number of moments at which it came before the command had ended."""
        return Counter(e["signal"] for r in self.records() for e in r["attempts"] if e["hit"])

    def run(self, moments: int) -> None:
        """Do trials until every signal has come at so many moments."""
        if not self.records():
            self.trial(0)
        for number in itertools.count(1):
            hits = self.hits()
            if all(hits[name] >= moments for name in KINDS[self.kind]):
                return
            if number > max(record["trial"] for record in self.records()):
                self.trial(number)

    def trial(self, number: int) -> None:
        """The command until it ends, disturbed unless this is trial 0; the record is kept."""
        from tools.campaigns.traces import digests, leftovers  # loads torch

        folder = self.folder / f"{self.name}-{self.kind if number else 'undisturbed'}{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        rng = random.Random(f"{self.seed} {self.name} {self.kind} {number}")
        attempts = list(self.attempts(folder, rng, is_disturbed=number > 0))
        found = digests(folder / "output")
        record: dict[str, Any] = {
            "name": self.name,
            "kind": self.kind if number else "",
            "seed": self.seed,
            "trial": number,
            "attempts": attempts,
            "digests": found,
            "leftovers": leftovers(folder),
        }
        with (self.folder / RECORDS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        faults = self.faults(record)
        print(f"{folder.name}: {'; '.join(faults) or 'the same'}", flush=True)
        if not faults:
            shutil.rmtree(folder)

    def attempts(
        self, folder: Path, rng: random.Random, *, is_disturbed: bool
    ) -> Iterator[dict[str, Any]]:
        """Give the command until it ends with status 0; a record of each attempt."""
        names = list(KINDS[self.kind]) if is_disturbed else []
        rng.shuffle(names)
        words = self.subject.command(folder / "output")
        for name in [*names, *[""] * MOST_ATTEMPTS][:MOST_ATTEMPTS]:
            what = None
            if name:
                seconds = self.records()[0]["attempts"][0]["seconds"]
                what = Disturbance(signal.Signals[name].value, rng.uniform(0, seconds))
            ended = attempt(
                words,
                log=folder / "log.txt",
                cache=folder / "cache",
                disturbance=what,
                rng=rng,
            )
            yield {"signal": name, "moment": what.moment if what else 0.0, **vars(ended)}
            if ended.status == 0:
                return

    def faults(self, record: dict[str, Any]) -> list[str]:
        """What is wrong with a trial; empty if nothing is."""
        found = [f"{kind}: {', '.join(names)}" for kind, names in record["leftovers"].items()]
        attempts = [
            Attempt(**{k: e[k] for k in vars(_EMPTY) if k in e}) for e in record["attempts"]
        ]
        if attempts[-1].status != 0:
            found.append(f"did not end in {len(attempts)} attempts")
        for entry, each in zip(record["attempts"], attempts):
            if each.orphans:
                found.append(f"left processes after {entry['signal']}: {'; '.join(each.orphans)}")
            if not _is_documented(entry["signal"], each, self.subject.statuses):
                found.append(f"exit status {each.status} after {entry['signal']}")
            late = each.seconds - entry["moment"]
            if self.kind == "signals" and each.hit and each.status == 0 and late > LATE:
                found.append(f"went on for {late:.0f} s after {entry['signal']}")
        expected = self.records()[0]["digests"]
        names = sorted(expected.keys() | record["digests"].keys())
        differing = [n for n in names if expected.get(n) != record["digests"].get(n)]
        if differing:
            found.append(f"differs: {', '.join(differing)}")
        return found

    def row(self) -> list[Any]:
        """The row of the table."""
        records = [record for record in self.records() if record["trial"]]
        hits = self.hits()
        counts = [f"{hits[name]} {name}" for name in dict.fromkeys(KINDS[self.kind])]
        same = sum(not self.faults(record) for record in records)
        attempts = [entry for record in records for entry in record["attempts"]]
        longest = max((entry["others"] for entry in attempts), default=0.0)
        orphans = sum(len(entry["orphans"]) for entry in attempts)
        files = sum(len(names) for record in records for names in record["leftovers"].values())
        return [
            *(self.subject.what, ", ".join(counts), f"{same} of {len(records)}"),
            *(f"{longest:.1f} s", orphans, files),
        ]


_EMPTY = Attempt(None, 0.0, "", 0.0, [])


def _is_documented(name: str, ended: Attempt, others: Sequence[int] = ()) -> bool:
    """Whether an exit status is one that the pages name for a signal."""
    if not (name and ended.hit) or name == "SIGKILL":
        return True
    if ended.status in (0, INTERRUPTED if name == "SIGINT" else REQUEUE, *others):
        return True
    return ended.status == -signal.Signals[name].value and not ended.began  # Python was starting


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = make_parser().parse_args(argv)
    return answered(lambda: campaign(args))


def campaign(args: argparse.Namespace) -> int:
    """Do what the command line asks for.

    Raises:
        ValueError: unknown commands, no moments, another system than Linux.
    """
    if sys.platform != "linux":
        raise ValueError(f"A campaign finds processes in /proc, as on Linux; here: {sys.platform}.")
    folder = Path(args.output).absolute()
    if args.kind in SCENES:
        return scene(args.kind, folder / args.kind)
    moments = MOMENTS[args.kind] if args.moments is None else args.moments
    if moments < 1:
        raise ValueError(f"--moments is {moments}; expected at least 1.")
    names = args.only.split(",")
    if unknown := [name for name in names if name not in SUBJECTS]:
        raise ValueError(f"Unknown command {', '.join(unknown)}. Known: {', '.join(SUBJECTS)}.")
    folder.mkdir(parents=True, exist_ok=True)
    campaigns = []
    for name in names:
        if importlib.util.find_spec(SUBJECTS[name].needs) is None:
            print(f"{name}: left out, {SUBJECTS[name].needs} is not installed.", file=sys.stderr)
            continue
        campaigns.append(Campaign(name, args.kind, folder=folder, seed=args.seed))
        campaigns[-1].run(moments)
    head = ["command", "moments", "the same bits", "others ended within", "orphans", "files left"]
    print(f"\n{tabulate([each.row() for each in campaigns], head)}")
    return int(any(each.faults(record) for each in campaigns for record in each.records()))


def scene(name: str, folder: Path) -> int:
    """Play one scene from its beginning; its folder stays where something is wrong."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lines, faults = importlib.import_module(f"tools.campaigns.{name}").play(folder)
    print("\n".join([*lines, *(f"FAULT: {text}" for text in faults)]))
    if not faults:
        shutil.rmtree(folder)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
