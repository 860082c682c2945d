"""What a protocol ends with: the table, published numbers, where things are, what to do next."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tools.protocols.plan import Request, Run
from tools.protocols.sets import transfer_targets
from tools.results.records import load_records
from tools.results.report import as_text, build_tables

ROOT = Path(__file__).resolve().parents[2]


def closing_text(requests: Sequence[Request], runs: Sequence[Run]) -> str:
    """Table, files and commands as one text; empty where no run is finished."""
    finished = [run for run in runs if run.results()]
    if not finished:
        return ""
    records = load_records([run.output_dir for run in finished]).records
    stages = {id(run.needs) for run in runs if run.needs and run.link != "--model-dir"}
    hidden = {run.output_dir for run in finished if id(run) in stages}
    shown = [record for record in records if record.path not in hidden] or records
    tables = as_text(build_tables(shown, published=True))
    return "\n\n".join([tables, _files(finished), _next_steps(requests[-1], finished)])


def _files(finished: Sequence[Run]) -> str:
    """Where the runs are, one line per method and dataset."""
    folders = list(dict.fromkeys(_method_folder(run.output_dir) for run in finished))
    lines = [f"  {folder}/" for folder in folders]
    return "\n".join(["Written (config.yaml, log.txt, results.json, checkpoints):", *lines])


def _method_folder(folder: Path) -> str:
    while re.match(r"(seed\d+|te_.*)$", folder.name) or re.match(r"seed\d+$", folder.parent.name):
        folder = folder.parent
    return folder.as_posix()


def _next_steps(request: Request, finished: Sequence[Run]) -> str:
    steps = [
        ("the table again", f"python parse_test_res.py {_table_folders(finished)} --published")
    ]
    trained = [run for run in finished if "--eval-only" not in run.flags]
    if trained:
        folder = trained[-1].output_dir.as_posix()
        steps.append(("your own images", f"python predict.py --model-dir {folder} IMAGE_OR_FOLDER"))
    scripts = _scripts_of(request.trainer)
    dataset = request.datasets[0]
    for protocol, what in (("dg", "domain generalization"), ("xd", "cross-dataset transfer")):
        if protocol in scripts and protocol != request.protocol:
            try:
                transfer_targets(protocol, dataset)
            except ValueError:
                continue
            steps.append((what, f"bash {scripts[protocol]} {dataset}"))
    if "base2new" in scripts and request.protocol != "base2new" and len(request.datasets) == 1:
        steps.append(("base to novel", f"bash {scripts['base2new']} {dataset}"))
    width = max(len(what) for what, _ in steps)
    return "\n".join(["Next:", *(f"  {what:<{width}}  {command}" for what, command in steps)])


def _table_folders(finished: Sequence[Run]) -> str:
    """Folders that hold all runs of the table and little else."""
    folders = []
    for run in finished:
        parts = run.output_dir.parts
        level = next(i for i, part in enumerate(parts) if part in LEVELS)
        depth = level + 1 if parts[level] in ("base2new", "dg", "xd") else level + 2
        folders.append(Path(*parts[:depth]).as_posix())
    return " ".join(dict.fromkeys(folders))


LEVELS = ("fewshot", "zeroshot", "testtime", "base2new", "dg", "xd", "lodo")


def _scripts_of(trainer: str) -> dict[str, str]:
    """Protocol -> script of a trainer, found by what the scripts call."""
    found = {}
    for path in sorted((ROOT / "scripts").glob("*/*.sh")):
        match = re.search(rf"^protocol (\w+) --trainer {trainer}\b", path.read_text(), re.MULTILINE)
        if match:
            found.setdefault(match.group(1), path.relative_to(ROOT).as_posix())
    return found
