"""What a protocol ends with: the table, published numbers, where things are, what to do next."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from tools.protocols.plan import BASE_TRAINER_PROTOCOLS, Request, Run, command_line
from tools.protocols.sets import check_has_no_domains, transfer_targets
from tools.results.records import load_records
from tools.results.report import as_text, build_tables
from tools.results.tables import PROTOCOL_TITLES

ROOT = Path(__file__).resolve().parents[2]
TRANSFER = ("dg", "xd")
OTHER_PROTOCOLS = {  # what to run next, in this order
    "dg": "domain generalization",
    "xd": "cross-dataset transfer",
    "base2new": "base to novel",
}


def closing_text(requests: Sequence[Request], runs: Sequence[Run]) -> str:
    """Table, files and commands as one text; empty where no run is finished."""
    finished = [run for run in runs if run.results()]
    if not finished:
        return ""
    request = requests[-1]
    records = load_records([run.output_dir for run in finished]).records
    stages = {id(run.needs) for run in runs if run.needs and run.link != "--model-dir"}
    hidden = {run.output_dir for run in finished if id(run) in stages}
    shown = [record for record in records if record.path not in hidden] or records
    tables = build_tables(shown, published=True)
    if request.protocol in TRANSFER:  # its table repeats the zero-shot and source runs
        own = PROTOCOL_TITLES[request.protocol]
        tables = [table for table in tables if table.title.startswith(own)] or tables
    has_chance = any("chance" in table.headers for table in tables)
    chance = "" if has_chance else _chance(finished)
    parts = [as_text(tables), _files(finished), chance, _next_steps(request, finished)]
    return "\n\n".join(filter(None, parts))


def _chance(finished: Sequence[Run]) -> str:
    """The accuracy of guessing, below the table of a set of one's own."""
    levels = {}
    for results in (run.results() for run in finished):
        if "chance" in results:
            words = f"{results['dataset']} {results['subsample_classes']}".removesuffix(" all")
            levels[words] = f"{words} {results['chance']:.2f}"
    return f"Chance level (%): {', '.join(levels.values())}" if levels else ""


def _files(finished: Sequence[Run]) -> str:
    """Where the runs are, one line per method and dataset."""
    folders = list(dict.fromkeys(_method_folder(run.output_dir) for run in finished))
    lines = [f"  {folder}/" for folder in folders]
    return "\n".join(["Written (config.yaml, log.txt, results.json, checkpoints):", *lines])


def _method_folder(folder: Path) -> str:
    while re.match(r"(seed\d+|te_.*)$", folder.name) or re.match(
        r"(seed\d+|te_.*)$", folder.parent.name
    ):
        folder = folder.parent
    return folder.as_posix()


def _next_steps(request: Request, finished: Sequence[Run]) -> str:
    """Commands for the same table, for prediction and for the method's other protocols."""
    words = [*_table_folders(request, finished), "--published"]
    steps = [("the table again", command_line("python", "parse_test_res.py", *words))]
    trained = [run for run in finished if "--eval-only" not in run.flags]
    if trained:
        folder = trained[-1].output_dir.as_posix()
        command = command_line("python", "predict.py", "--model-dir", folder)
        steps.append(("your own images", f"{command} IMAGE_OR_FOLDER"))
    environment, settings = _same_settings(request)
    scripts = scripts_of(request.trainer)
    for protocol, what in OTHER_PROTOCOLS.items():
        if protocol in scripts and _is_next(request, protocol):
            datasets = request.datasets[:1] if protocol in TRANSFER else request.datasets
            command = command_line("bash", scripts[protocol], ",".join(datasets), *settings)
            steps.append((what, environment + command))
    width = max(len(what) for what, _ in steps)
    return "\n".join(["Next:", *(f"  {what:<{width}}  {command}" for what, command in steps)])


def _is_next(request: Request, protocol: str) -> bool:
    """Whether a protocol is another one, for these datasets and with this request's options."""
    if protocol == request.protocol:
        return False
    if request.base_trainer and protocol not in BASE_TRAINER_PROTOCOLS:
        return False
    try:
        check_has_no_domains(request.datasets, protocol)
        if protocol in TRANSFER:
            transfer_targets(protocol, request.datasets[0])
    except ValueError:
        return False
    return True


def _same_settings(request: Request) -> tuple[str, list[str]]:
    """What a script needs to go on with this request's data, seeds and settings."""
    variables = {
        "DATA": "" if request.root == Request.root else request.root,
        "SEEDS": " ".join(map(str, request.seeds)),
        "OUTPUT": "" if request.output == Request.output else request.output.as_posix(),
    }
    environment = (f"{name}={shlex.quote(value)} " for name, value in variables.items() if value)
    words = [] if request.shots == Request.shots else ["--shots", str(request.shots)]
    for name in ("backbone", "recipe", "variant", "tag", "base_trainer"):
        flag = f"--{name.replace('_', '-')}"
        words += [flag, value] if (value := getattr(request, name)) else []
    words += [] if request.with_zeroshot else ["--no-zeroshot"]
    words += ["--classnames", request.classnames] if request.classnames else []
    words += [word for text in request.templates for word in ("--template", text)]
    for path in request.config_files:
        words += ["--config-file", path]
    return "".join(environment), [*words, *request.rest]


def _table_folders(request: Request, finished: Sequence[Run]) -> list[str]:
    """Folders that hold all runs of the table and little else."""
    folders = []
    for run in finished:
        level, dataset = run.output_dir.relative_to(request.output).parts[:2]
        if request.protocol in TRANSFER and level == "fewshot":
            continue  # the source run is found by what its evaluations say
        is_wide = level in ("base2new", *TRANSFER) or request.protocol in TRANSFER
        folders.append(request.output / level if is_wide else request.output / level / dataset)
    return [folder.as_posix() for folder in dict.fromkeys(folders)]


def scripts_of(trainer: str) -> dict[str, str]:
    """Protocol -> script of a trainer, found by what the scripts call."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "scripts").glob("*/*.sh")):
        call = rf"^protocol (\w+) --trainer (?:\w+,)*{trainer}\b"
        match = re.search(call, path.read_text(encoding="utf-8"), re.MULTILINE)
        if match:
            found.setdefault(match.group(1), path.relative_to(ROOT).as_posix())
    return found
