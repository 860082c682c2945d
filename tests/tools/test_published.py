"""Published numbers: consistent, each shown beside the runs that it speaks of and no others."""

import json
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

from dassl.config.files import config_names
from dassl.config.recipes import TRAINERS_DIR
from tools.protocols.plan import Request, Run, make_plan
from tools.results.published import PUBLISHED_DIR, Entry, load_published
from tools.results.records import load_records
from tools.results.report import build_tables
from tools.results.statistics import mean
from tools.results.tables import Table

BESIDE = {"dg": "TaskRes", "xd": "MMA", "base2new": "MMA", "lodo": "ERM"}  # of zero-shot rows
SOURCE = ("imagenet",)
ENTRIES = load_published()
IDS = [f"{i}-{entry.trainer}-{entry.protocol}-{entry.shots}" for i, entry in enumerate(ENTRIES)]


def test_published_averages_agree_with_their_rows():
    for entry in ENTRIES:
        if len(entry.base) == 12:
            base = mean([value for name, value in entry.base.items() if name != "average"])
            new = mean([value for name, value in entry.new.items() if name != "average"])
            assert base == pytest.approx(entry.average["base"], abs=0.011)
            assert new == pytest.approx(entry.average["new"], abs=0.011)
        elif isinstance(entry.average, (int, float)) and "printed average" not in entry.note:
            assert mean([*entry.accuracy.values()]) == pytest.approx(entry.average, abs=0.09), entry
        if entry.ood_average is not None:
            targets = [value for name, value in entry.accuracy.items() if name != "imagenet"]
            assert mean(targets) == pytest.approx(entry.ood_average, abs=0.011), entry


def test_every_published_number_says_how_sure_we_are_of_it():
    for entry in ENTRIES:
        assert entry.source and entry.confidence not in ("", "not stated"), entry


def test_published_data_sets_have_a_config():
    known = {"average", *(p.stem for p in (PUBLISHED_DIR.parent / "datasets").glob("*.yaml"))}

    for entry in ENTRIES:
        assert set(entry.accuracy) | set(entry.base) | set(entry.new) <= known, entry.source


# ------------------------------------------------------------------ every number is shown
@cache
def planned(protocol: str, trainer: str, datasets: tuple[str, ...], **options) -> list[Run]:
    """The runs of a protocol; a recipe or variant that the package does not have gives none."""
    try:
        return make_plan(Request(protocol, trainer, datasets, seeds=(1,), **options))
    except (FileNotFoundError, ValueError):
        return []


def runs_beside(entry: Entry, output: Path) -> Path:
    """What the package leaves behind of the runs that an entry speaks of, below a folder."""
    is_row = entry.trainer.startswith("Zeroshot") and entry.protocol in BESIDE
    trainer = BESIDE[entry.protocol] if is_row else entry.trainer
    is_transfer = entry.protocol in ("dg", "xd")
    datasets = SOURCE if is_transfer else tuple(sorted(entry.sets))
    options = {"backbone": entry.backbone, "shots": entry.shots or 16, "with_zeroshot": is_row}
    if is_transfer:
        options["targets"] = tuple(sorted(entry.sets - {*SOURCE}))
    if is_row and entry.protocol == "lodo":  # that row is the teacher's
        options |= {"backbone": "vits", "rest": ("TRAINER.VL2V.TEACHER", entry.backbone)}
    for choice in recipe_choices(entry, trainer):
        runs = planned(entry.protocol, trainer, datasets, **options, **choice)
        own = [run for run in runs if trainer_of(run) == entry.trainer]
        if own and all(fnmatchcase(recipe_of(run), entry.recipe or "*") for run in own):
            for run in runs:
                finish(run, entry, source=datasets[0] if is_transfer else "", output=output)
            return output
    raise AssertionError(f"No run of {trainer} has the recipe {entry.recipe!r}: {entry}")


def recipe_choices(entry: Entry, trainer: str) -> list[dict[str, str]]:
    """How a user may ask for the recipe of an entry; in lodo the script names it."""
    name = entry.recipe.strip("*_")
    choices = [{}, {"recipe": name}, {"variant": name}, {"tag": name}]
    if entry.protocol == "lodo":
        choices += [{"recipe": name} for name in config_names(TRAINERS_DIR / trainer)]
    return choices


def words_of(run: Run) -> dict[str, str]:
    words = run.arguments(linked=False)
    return dict(zip(reversed(words[:-1]), reversed(words[1:])))  # of repeated flags the first


def trainer_of(run: Run) -> str:
    return words_of(run)["--trainer"]


def recipe_of(run: Run) -> str:
    words = words_of(run)
    return words.get("RUN.RECIPE") or Path(words["--config-file"]).stem


def finish(run: Run, entry: Entry, *, source: str, output: Path) -> None:
    """Write the results.json of a finished run."""
    words = words_of(run)
    is_target = words["RUN.PROTOCOL"] in ("dg", "xd")
    names = ("test", entry.classifier or "test")
    content = {
        "protocol": words["RUN.PROTOCOL"],
        "trainer": words["--trainer"],
        "dataset": run.dataset,
        "metrics": {name: {"accuracy": 50.0} for name in names},
        "subsample_classes": words.get("DATASET.SUBSAMPLE_CLASSES", "all"),
        "recipe": recipe_of(run),
        "backbone": run.backbone,
        "shots": int(words.get("DATASET.NUM_SHOTS", 0)),
        "seed": int(words["--seed"]),
        "target_domains": [words["--target-domains"]] if "--target-domains" in words else [],
        "source": source if is_target else "",
        "evaluated": {"model_dir": str(output / run.needs.output_dir)} if is_target else None,
        "selection": "last",
        "finished": True,
    }
    folder = output / run.output_dir
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(content))


def shown(tables: list[Table], label: str) -> set[tuple[str, str, float]]:
    """(row, column, number) of everything that tables quote from one source."""
    found = set()
    for row in (row for table in tables for row in table.data):
        for value, source in zip(row.get("published", ()), row.get("published_sources", ())):
            if source == label:
                found.add((row["dataset"].split(" of ")[0], "", value))
        if row.get("source") == label and row["recipe"] == "published":
            place = row.get("dataset", "").split(" of ")[0]
            found |= {(place, name, value) for name, value in row.items() if type(value) is float}
    return found


def stored(entry: Entry) -> set[tuple[str, str, float]]:
    """The same of everything that an entry holds."""
    if entry.base:
        halves = {"Base": entry.base, "Novel": entry.new}
        cells = {(name, half, v) for half, row in halves.items() for name, v in row.items()}
        return cells | {("average", "H", entry.average["H"])}
    means = {"average": entry.average, "OOD average": entry.ood_average}
    numbers = entry.accuracy | {name: value for name, value in means.items() if value is not None}
    if entry.protocol == "xd":
        numbers["average"] = numbers.pop("OOD average", numbers.get("average"))
    if entry.protocol in ("dg", "xd", "lodo"):
        return {("", name, float(value)) for name, value in numbers.items()}
    return {(name, "", value) for name, value in numbers.items()}


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_every_stored_number_is_shown_beside_the_runs_that_it_speaks_of(entry, tmp_path):
    records = load_records([runs_beside(entry, tmp_path)]).records

    tables = build_tables(records, published=True)

    assert stored(entry) - shown(tables, entry.label) == set()
    assert any(entry.label in note for table in tables for note in table.notes)
