"""Find runs on disk and read what they measured: `results.json` first, else a foreign `log.txt`."""

from __future__ import annotations

import difflib
import os
import re
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dassl.utils.text_files import read_json
from tools.results.logs import PERCENTAGES, is_possible, read_result

SEED_FOLDER = re.compile(r"seed(\d+)$")
METRICS_OF_A_LOG = ("accuracy", "error", "macro_f1")
KINDS: dict[str, type | tuple[type, ...]] = {  # of a results.json, as far as tables read it
    **dict.fromkeys(("metrics", "evaluated", "stream", "labelled_images"), dict),
    **dict.fromkeys(("seconds", "source_code"), dict),
    **dict.fromkeys(("seed", "shots", "trainable_parameters"), int),
    **dict.fromkeys(("peak_memory_bytes", "chance"), (int, float)),
    "target_domains": list,
    **dict.fromkeys(("protocol", "part", "trainer", "recipe", "backbone", "dataset"), str),
}


@dataclass(frozen=True)
class Record:
    """What one run measured.

    `metrics` maps the name of a split or classifier (`test` is the run's own number) to its
    metrics in percent. `rule` is the selection rule (last, val, source_val, test).
    `settings_digest` is what the run recorded of its settings, or "".
    """

    path: Path
    trainer: str
    dataset: str
    metrics: dict[str, dict[str, float]]
    protocol: str = ""
    part: str = ""
    recipe: str = ""
    backbone: str = ""
    shots: int = 0
    seed: int = 0
    target: str = ""
    source: str = ""
    rule: str = ""
    model_dir: str = ""
    settings_digest: str = ""
    details: dict = field(default_factory=dict, compare=False)
    is_foreign: bool = False

    @property
    def part_of_test(self) -> tuple[int, int] | None:
        """(images seen, all of them) where a stream ended before the last test image."""
        stream = self.details.get("stream") or {}
        seen, count = stream.get("images", 0), stream.get("of", 0)
        return (seen, count) if seen < count else None

    @property
    def trains_on_all(self) -> bool:
        """Whether all training images were used: no shots were drawn, yet labels were read."""
        labelled = self.details.get("labelled_images") or {}
        return self.shots == 0 and labelled.get("train", 0) > 0

    @property
    def model_folder(self) -> Path | None:
        """Where an evaluated model lies; a relative path counts from the folder of the run tree."""
        if not self.model_dir:
            return None
        places = [folder / self.model_dir for folder in self.path.absolute().parents]
        return next((place for place in places if place.is_dir()), Path(self.model_dir))


@dataclass
class Findings:
    """The runs found and the warnings to show."""

    records: list[Record] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def load_records(paths: Iterable[str | os.PathLike], *, test_log: bool = False) -> Findings:
    """Read all runs under the given folders.

    Raises:
        FileNotFoundError: a folder does not exist, or no run lies under any of them.
    """
    findings = Findings()
    seen: set[Path] = set()
    for path in map(Path, paths):
        for folder in _run_folders(_existing(path)):
            if folder.resolve() not in seen:
                seen.add(folder.resolve())
                _read_folder(folder, findings, test_log=test_log)
    if not findings.records:
        where = ", ".join(str(path) for path in paths)
        reasons = "".join(f"\n  {warning}" for warning in findings.warnings)
        raise FileNotFoundError(
            f"No finished run under {where}: looked for results.json and for log.txt with "
            f'"Finish training" or "Finished training" (--test-log: "=> result").{reasons}'
        )
    return findings


def _existing(path: Path) -> Path:
    if path.is_dir():
        return path
    if path.name in ("results.json", "log.txt") and path.is_file():
        return path.parent
    parent = path.parent
    while not parent.is_dir():
        parent = parent.parent
    names = sorted(p.name for p in parent.iterdir() if p.is_dir() and not p.name.startswith("."))
    close = difflib.get_close_matches(path.name, names, n=1)
    hint = f" Did you mean {parent / close[0]}?" if close else ""
    listing = ", ".join(names[:10]) or "no folders"
    raise FileNotFoundError(f"No folder {path}.{hint} {parent} holds: {listing}.")


def _run_folders(root: Path) -> list[Path]:
    """Folders that hold a run, sorted; the stages inside a finished run are not listed."""
    folders = []
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if not name.startswith("."))
        if "results.json" in files:
            names.clear()
        if "results.json" in files or "log.txt" in files:
            folders.append(Path(folder))
    return sorted(folders)


def _read_folder(folder: Path, findings: Findings, *, test_log: bool) -> None:
    if (folder / "results.json").is_file():
        _read_results(folder, findings)
    elif (folder / "config.yaml").is_file():
        if not any((child / "results.json").is_file() for child in folder.iterdir()):
            findings.warnings.append(
                f"{folder} is unfinished (no results.json): run its command again to resume."
            )
    else:
        _read_log(folder, findings, test_log=test_log)


def _read_results(folder: Path, findings: Findings) -> None:
    path = folder / "results.json"
    try:
        data = read_json(path)
        if not isinstance(data, dict) or not data.get("metrics"):
            findings.warnings.append(f"{path} ignored: it has no metrics.")
        elif data.get("finished") is not True:
            findings.warnings.append(f"{folder} is unfinished: run its command again to resume.")
        else:
            record, faults = _from_results(folder, _checked(data))
            findings.warnings += [f"{path}: {fault}" for fault in faults]
            findings.records.append(record)
    except (OSError, ValueError, TypeError) as err:
        reason = str(err).replace(str(path), "it", 1).rstrip(".")
        if isinstance(err, OSError) and err.strerror:
            findings.warnings.append(f"{path} ignored: it cannot be read ({err.strerror}).")
            return
        findings.warnings.append(f"{path} ignored: {reason}. Delete it and run again.")


def _measured(metrics: dict) -> tuple[dict[str, dict[str, float]], list[str]]:
    """The metrics that a run can have measured; one sentence for each that no mean may hold."""
    found: dict[str, dict[str, float]] = {}
    faults = []
    for split, values in metrics.items():
        if not isinstance(values, dict):
            faults.append(f"{split} is {reprlib.repr(values)}, left out of every mean.")
            continue
        found[split] = {}
        if not values:
            faults.append(f"{split} holds no number, left out of every mean.")
        for name, value in values.items():
            if _is_number(value) and is_possible(name, value):
                found[split][name] = float(value)
            elif isinstance(value, float) or PERCENTAGES.fullmatch(name):
                held = reprlib.repr(value)
                faults.append(f"{name} of {split} is {held}, left out of every mean.")
    return found, faults


def _checked(data: dict) -> dict:
    """The content of a ``results.json`` whose parts have the types that a run writes.

    Raises:
        TypeError: naming the first that has not.
    """
    for key, kind in KINDS.items():
        if data.get(key) is not None and (
            not isinstance(data[key], kind) or isinstance(data[key], bool)
        ):
            raise TypeError(f'its "{key}" is {reprlib.repr(data[key])}, which no run writes')
        if isinstance(data.get(key), int) and not _is_number(data[key]):
            raise TypeError(f'its "{key}" is {reprlib.repr(data[key])}, which no run writes')
    for key in ("stream", "labelled_images"):
        counts = data.get(key) or {}
        if any(not _is_number(counts.get(name, 0)) for name in ("images", "of", "train", "val")):
            raise TypeError(f'its "{key}" holds {reprlib.repr(counts)}, expected numbers')
    return data


def _from_results(folder: Path, data: dict) -> tuple[Record, list[str]]:
    """The run in a ``results.json``, and what of it is left out."""
    targets = data.get("target_domains") or ()
    part = data.get("part") or ""
    if part not in ("base", "new") and data.get("subsample_classes") in ("base", "new"):
        part = data["subsample_classes"]
    metrics, faults = _measured(data["metrics"])
    record = Record(
        path=folder,
        trainer=str(data.get("trainer") or ""),
        dataset=str(data.get("dataset") or data.get("dataset_name") or ""),
        metrics=metrics,
        protocol=str(data.get("protocol") or ""),
        part=str(part),
        recipe=str(data.get("recipe") or ""),
        backbone=str(data.get("backbone") or ""),
        shots=max(int(data.get("shots") or 0), 0),
        seed=-1 if data.get("seed") is None else int(data["seed"]),
        target=", ".join(map(str, targets)),
        source=str(data.get("source") or ""),
        rule=str(data.get("selection") or ""),
        model_dir=str((data.get("evaluated") or {}).get("model_dir") or ""),
        settings_digest=str(data.get("settings_digest") or ""),
        details=data,
    )
    return record, faults


def _is_number(value: object) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, float)


def _read_log(folder: Path, findings: Findings, *, test_log: bool) -> None:
    """A run of another program: its path says what it is, its log what it measured."""
    path = folder / "log.txt"
    is_new = "test_new" in folder.parts
    metrics = {}
    for name in METRICS_OF_A_LOG:
        try:
            _, value = read_result(folder, name, test_log=test_log or is_new)
        except OSError as err:
            findings.warnings.append(f"{path} ignored: it cannot be read ({err.strerror}).")
            return
        if value is not None:
            metrics["error_rate" if name == "error" else name] = value
    if not metrics:
        hint = "" if test_log or is_new else " A log of --eval-only? Then add --test-log."
        findings.warnings.append(
            f'{path} ignored: no result after an end signal ("* accuracy: 71.5%" below a line '
            f'"Finish training").{hint}'
        )
        return
    findings.records.append(_from_log(folder, metrics))


def _from_log(folder: Path, metrics: dict[str, float]) -> Record:
    parts = [part for part in folder.parts if not SEED_FOLDER.match(part)]
    seed = next((int(m.group(1)) for part in folder.parts if (m := SEED_FOLDER.match(part))), -1)
    found = (re.search(r"(\d+)shots|shots_(\d+)$", part) for part in parts)
    shots = next((int(match.group(1) or match.group(2)) for match in found if match), 0)
    known: dict[str, Any] = {
        "seed": seed,
        "shots": shots,
        "metrics": {"test": metrics},
        "is_foreign": True,
    }
    for level, part in (("train_base", "base"), ("test_new", "new")):
        if level in parts and len(parts) > parts.index(level) + 1:
            dataset, *label = parts[parts.index(level) + 1 :]
            label = [name for name in label if not re.match(r"shots_\d+$", name)]
            trainer = "/".join(label) or "log.txt"
            return Record(folder, trainer, dataset, protocol="base2new", part=part, **known)
    return Record(folder, "log.txt", "/".join(parts) or ".", **known)
