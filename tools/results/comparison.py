"""Tables of a comparison: two methods pair by pair, or many with the best marked where it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

from tools.results.figures import paper_name
from tools.results.pairs import Difference, Place, compared, compared_over, paired, place_of
from tools.results.records import Record
from tools.results.series import group
from tools.results.settings import by_settings
from tools.results.statistics import Cell, spread_in_words
from tools.results.tables import Table

PAIR_NOTE = (
    "Paired over seeds and training images; interval: 95 % percentile bootstrap over {what} "
    "(2000 resamples). It is significant where it leaves out 0."
)
FEW_SEEDS_NOTE = "An interval over a few seeds alone is too narrow: keep the runs' predictions."
BEST_NOTE = (
    "Bold: significantly better than every other method of its column (paired bootstrap over seeds "
    "and test images, 95 %); no mark: no method is."
)


def pair_table(first: Sequence[Record], second: Sequence[Record], names: tuple[str, str]) -> Table:
    """Differences of two methods, a row per place and one for their mean.

    Raises:
        ValueError: no run of one has a partner, or seeds of one have different settings.
    """
    pairs, notes = paired(first, second)
    if not pairs:
        raise ValueError(
            f"No run of {names[0]} and {names[1]} has the same dataset, shots, seed and training "
            f"images. {' '.join(notes[:3])}".rstrip()
        )
    for some in pairs.values():
        for name, runs, one in zip(names, (first, second), (some[0].first, some[0].second)):
            _check_one_method(name, [run for run in runs if place_of(run) == place_of(one)])
    rows = [(_in_words(place), compared(some)) for place, some in pairs.items()]
    kinds = dict.fromkeys(found.resampled for _, found in rows if found.resampled)
    if len(rows) > 1:
        rows.append((f"mean of {len(rows)}", compared_over(pairs.values())))
    lines, data = [], []
    for label, found in rows:
        lines.append({"tested on": label, **_shown(found)})
        low, high = found.interval or (None, None)
        numbers = {"difference": found.mean, "low": low, "high": high}
        numbers |= {"wins": found.wins, "ties": found.ties, "losses": found.losses}
        data.append({"tested on": label, **numbers, "seeds": list(found.seeds)})
    notes.insert(0, PAIR_NOTE.format(what="; ".join(kinds) or "nothing (one seed)"))
    if "seeds" in kinds:
        notes.insert(1, FEW_SEEDS_NOTE)
    title = f"{names[0]} minus {names[1]}, accuracy in percentage points"
    return Table.of_lines(title, lines, data, keep=tuple(lines[0]), notes=notes)


def _check_one_method(name: str, runs: Sequence[Record]) -> None:
    """Refuse runs of one place that are not seeds of one method."""
    unlike = by_settings(runs)
    if len(unlike) > 1:
        listed = "; ".join(label or "settings recorded" for label, _ in unlike)
        raise ValueError(
            f"{name}, {_in_words(place_of(runs[0]))}: runs with different settings are not seeds "
            f"of one method ({listed}). Give a folder that holds those of one setting."
        )


def _in_words(place: Place) -> str:
    protocol, part, dataset, target, shots = place
    words = [dataset, part, target, f"{shots} shot{'s' * (shots > 1)}" if shots else ""]
    return ", ".join(word for word in words if word) or protocol


def _shown(found: Difference) -> dict[str, str]:
    interval = "-"
    if found.interval is not None:
        interval = " to ".join(f"{value:+.2f}".replace("-", "−") for value in found.interval)
    return {
        "difference": f"{found.mean:+.2f}".replace("-", "−") + " *" * found.is_significant,
        "95 % interval": interval,
        "wins / ties / losses": f"{found.wins} / {found.ties} / {found.losses}",
        "seeds": str(len(found.seeds)),
    }


def many_table(records: Sequence[Record]) -> Table:
    """A row per method, a column per dataset and number of shots, with the best marked."""
    methods: dict[str, list[Record]] = defaultdict(list)
    cells: dict[tuple[str, Place], Cell] = {}
    for item in group(records):
        cell = item.cell("accuracy")
        if item.key.classifier != "test" or cell is None:
            continue
        label = method_label(item.key)
        methods[label] += item.records
        cells[label, place_of(item.records[0])] = cell
    places = sorted({place for _, place in cells if place[4]}) or sorted({p for _, p in cells})
    best = {place: _best(methods, place) for place in places}
    lines, data = [], []
    for label in methods:
        line: dict[str, str] = {"method": label}
        numbers: dict[str, Any] = {"method": label}
        for place in places:
            cell = cells.get((label, place)) or _untrained(cells, label, place)
            head = _in_words(place)
            text = cell.text() if cell else ""
            line[head] = f"**{text}**" if best[place] == label else text
            if cell:
                numbers |= {head: cell.mean, f"{head} std": cell.std}
                numbers |= {f"{head} is best": best[place] == label}
        lines.append(line)
        data.append(numbers)
    words = spread_in_words([len(cell.seeds) for cell in cells.values()])
    title = "Accuracy (%)" + (f"; {words}" if words else "")
    return Table.of_lines(title, lines, data, keep=tuple(lines[0]), notes=[BEST_NOTE])


def method_label(key) -> str:
    """A method's name in a table of many, with what tells its variants apart."""
    return paper_name(key.trainer) + (f" [{key.settings}]" if key.settings else "")


def _untrained(cells: dict[tuple[str, Place], Cell], label: str, place: Place) -> Cell | None:
    """The one number of a method without shots, which stands at every number of shots."""
    found = (cells[own] for own in cells if own[0] == label and _serves(own[1], place))
    return next(found, None)


def _serves(untrained: Place, place: Place) -> bool:
    return untrained[4] == 0 and untrained[1:4] == place[1:4]


def _best(methods: dict[str, list[Record]], place: Place) -> str:
    """The method that is significantly better than each other one at a place, or ""."""
    here = {label: _at(records, place) for label, records in methods.items()}
    wins: dict[str, int] = defaultdict(int)
    present = [label for label, records in here.items() if records]
    for one, two in combinations(present, 2):
        first, second = (one, two) if here[one][0].shots else (two, one)
        pairs, _ = paired(here[first], here[second])
        if pairs and (found := compared(next(iter(pairs.values())))).is_significant:
            wins[first if found.mean > 0 else second] += 1
    return next((label for label in present if 0 < wins[label] == len(present) - 1), "")


def _at(records: Iterable[Record], place: Place) -> list[Record]:
    return [run for run in records if place_of(run) == place or _serves(place_of(run), place)]
