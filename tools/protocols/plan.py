"""What is trained on what, tested on what: each protocol as a list of runs with dependencies."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dassl.config.files import REPOSITORY
from dassl.config.own_data import dataset_name, is_own
from dassl.config.recipes import Recipe, resolve, slug
from dassl.terminal import as_typed
from dassl.utils.text_files import read_json
from tools.protocols.sets import (
    check_has_no_domains,
    check_serves_new_classes,
    chosen_domains,
    transfer_targets,
)

KEY = re.compile(r"[A-Z][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)+$|USE_CUDA$|VERBOSE$")
SHARED_KEYS = ("DATASET.", "INPUT.", "DATALOADER.", "USE_CUDA", "VERBOSE")
BLACK_BOXES = ("http://", "https://", "python:")  # teachers that are not a CLIP at hand
NOT_SHARED_KEYS = ("DATASET.NUM_SHOTS", "DATASET.VAL_SHOTS", "DATASET.SUBSAMPLE_CLASSES")
UNTRAINED = ("TPT", "DMN", "ZeroshotCLIP", "ZeroshotCLIP2")  # of which DMN trains in others
BASE_TRAINER_PROTOCOLS = ("fewshot", "xd", "dg")  # those that train on the shots of all classes
STAGES = {  # trainer -> its stages in order: (folder, trainer)
    "VL2VADiP": (("align", "VL2VAlign"), ("distill", "VL2VDistill")),
    "LPFT": (("lp", "LP"), ("ft", "ERM")),
}


def script_path(name: str) -> str:
    """A script of the repository as a command names it, from wherever that is given."""
    return name if Path.cwd() == REPOSITORY else (REPOSITORY / name).as_posix()


def command_line(program: str, script: str, *words: str) -> str:
    """A line for a shell that starts a script; the command of the package where that is in use."""
    if (command := as_typed(f"python {script}")).startswith("vltune "):
        return f"{command} {shlex.join(words)}"
    return shlex.join([program, script_path(script), *words])


def recipe_dataset(dataset: str) -> str:
    """The dataset whose recipes serve: of all own sets they are those of class folders."""
    return "class_folder" if is_own(dataset) else dataset


@dataclass
class Run:
    """One call of train.py.

    `needs` is a run that must be finished first; `link` is the flag or key that hands its folder
    on. A `tolerant` run (the zero-shot row) may fail without ending the protocol.
    """

    output_dir: Path
    flags: list[str]
    opts: list[str] = field(default_factory=list)
    needs: Run | None = None
    link: str = "--model-dir"
    tolerant: bool = False
    dataset: str = ""
    backbone: str = ""

    def arguments(self, *, linked: bool = True) -> list[str]:
        """Arguments for train.py; of a dependent run final once `needs` is finished.

        Without the link they say nothing of `needs`, whose folder need not exist yet.
        """
        flags, opts = list(self.flags), list(self.opts)
        if self.needs is not None and linked:
            handed = handed_on(self.needs.output_dir, self.link)
            target = flags if self.link.startswith("--") else opts
            target += [self.link, handed]
        return [*flags, "--output-dir", self.output_dir.as_posix(), *opts]

    @property
    def is_linked(self) -> bool:
        """Whether there is what another run hands on, so that the arguments are final."""
        return self.needs is None or bool(self.needs.results())

    def command(self) -> str:
        """The same as a line for a shell."""
        return command_line("python", "train.py", *self.arguments())

    def results(self) -> dict:
        """results.json of this run, or {} where it is not finished."""
        path = self.output_dir / "results.json"
        try:
            data = read_json(path)
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) and data.get("finished") else {}


@dataclass(frozen=True)
class Request:
    """What the command line of tools/protocol.py asks for."""

    protocol: str
    trainer: str
    datasets: tuple[str, ...] = ("toy_objects",)
    shots: int = 16
    seeds: tuple[int, ...] = ()
    root: str = "./data"
    output: Path = Path("output")
    backbone: str | None = None
    recipe: str | None = None
    variant: str = ""
    config_files: tuple[str, ...] = ()
    tag: str = ""
    targets: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    stage: str = ""
    base_trainer: str = ""
    with_zeroshot: bool = True
    classnames: str = ""
    templates: tuple[str, ...] = ()
    rest: tuple[str, ...] = ()

    def user_words(self) -> tuple[list[str], list[str]]:
        """The user's train.py arguments: flags, and KEY VALUE pairs."""
        first = next((i for i, w in enumerate(self.rest) if KEY.match(w)), len(self.rest))
        return list(self.rest[:first]), list(self.rest[first:])

    def data_words(self, dataset: str) -> list[str]:
        """What train.py is told of a dataset: where it is, and what its classes are called."""
        words = ["--dataset", dataset] if is_own(dataset) else ["--root", self.root]
        words += ["--classnames", self.classnames] if self.classnames and is_own(dataset) else []
        words += [word for text in self.templates for word in ("--template", text)]
        return words if is_own(dataset) else [*words, "--dataset", dataset]

    def resolve(self, dataset: str, *, trainer: str = "", shots: int | None = None) -> Recipe:
        """The recipe of the asked trainer on a dataset."""
        return resolve(
            trainer or self.trainer,
            recipe_dataset(dataset),
            shots=self.shots if shots is None else shots,
            protocol=self.protocol,
            backbone=self.backbone,
            recipe=None if trainer else self.recipe,
            variant=self.variant,
            config_files=self.config_files,
        )


def make_plan(request: Request) -> list[Run]:
    """All runs of a protocol in an order that respects their dependencies.

    Raises:
        ValueError: an unknown protocol, an option that it has no use for, a trainer that cannot
            serve its classes, or a dataset without the domains or targets it needs, or with domains
            that it leaves alone.
    """
    planners = {
        "fewshot": _fewshot,
        "zeroshot": _untrained,
        "testtime": _untrained,
        "base2new": _base2new,
        "xd": _transfer,
        "dg": _transfer,
        "lodo": _lodo,
    }
    if request.protocol not in planners:
        raise ValueError(f'No protocol "{request.protocol}". Known: {", ".join(planners)}.')
    check_serves_new_classes(request.trainer, request.protocol)
    if request.protocol != "lodo":
        check_has_no_domains((*request.datasets, *request.targets), request.protocol)
    return planners[request.protocol](request)


def _seeds(request: Request, recipe: Recipe) -> tuple[int, ...]:
    return request.seeds or recipe.seeds


def _folder(request: Request, recipe: Recipe, shots: int | None) -> str:
    tag = f"_{request.tag}" if request.tag else ""
    return f"{recipe.label}{tag}" + ("" if shots is None else f"_{shots}shots")


def _run(
    request: Request,
    recipe: Recipe,
    output_dir: Path,
    *,
    dataset: str,
    seed: int,
    trainer: str = "",
    protocol: str = "",
    part: str = "",
    flags: Sequence[str] = (),
    opts: Sequence[str] = (),
    **more: Any,
) -> Run:
    """A run of the asked trainer, with the user's own arguments last (they win)."""
    user_flags, user_opts = request.user_words()
    words = [*request.data_words(dataset), "--seed", str(seed)]
    words += ["--trainer", trainer or request.trainer, *recipe.arguments(), *flags, *user_flags]
    about = ["RUN.PROTOCOL", protocol or request.protocol]
    about += ["RUN.PART", part] if part else []
    name = _folder(request, recipe, None)
    about += ["RUN.RECIPE", name] if name != recipe.name or not recipe.files else []
    pairs = _last_values([*about, *opts, *recipe.opts, *user_opts])
    return Run(output_dir, words, pairs, dataset=dataset, backbone=recipe.backbone, **more)


def _last_values(words: list[str]) -> list[str]:
    """KEY VALUE pairs without those that a later one of the same key replaces."""
    if len(words) % 2:
        return words  # train.py says what is wrong
    return [word for pair in dict(zip(words[::2], words[1::2])).items() for word in pair]


def _fewshot(request: Request) -> list[Run]:
    """K shots of each dataset, seeds; zero-shot beside."""
    runs = []
    for dataset in request.datasets:
        recipe = request.resolve(dataset)
        if request.with_zeroshot:
            runs += zeroshot_runs(request, dataset, recipe.backbone)
        for seed in _seeds(request, recipe):
            runs += _trained(request, recipe, dataset, seed)
    return runs


def _trained(request: Request, recipe: Recipe, dataset: str, seed: int) -> list[Run]:
    """A few-shot run, after the run that trains its base where one is asked for."""
    shots = ["DATASET.NUM_SHOTS", str(request.shots)]
    common: dict[str, Any] = {"dataset": dataset, "seed": seed}
    common |= {"protocol": "fewshot", "opts": shots}
    name = _folder(request, recipe, request.shots)
    level = request.output / "fewshot" / dataset_name(dataset)
    folder = level / request.trainer / name / f"seed{seed}"
    if not request.base_trainer:
        return [_run(request, recipe, folder, **common)]
    base_recipe = request.resolve(dataset, trainer=request.base_trainer)
    base_folder = level / request.base_trainer / name / f"seed{seed}"
    base = _run(request, base_recipe, base_folder, trainer=request.base_trainer, **common)
    return [base, _run(request, recipe, folder, needs=base, link="--enhanced-base", **common)]


def _untrained(request: Request) -> list[Run]:
    """Nothing is trained: zero-shot classifiers, test-time methods."""
    runs = []
    for dataset in request.datasets:
        recipe = request.resolve(dataset, shots=0)
        check_trains_nothing(request, recipe)
        if request.protocol == "testtime" and request.with_zeroshot:
            runs += zeroshot_runs(request, dataset, recipe.backbone)
        level = request.output / request.protocol / dataset_name(dataset) / request.trainer
        for seed in _seeds(request, recipe):
            folder = level / _folder(request, recipe, 0) / f"seed{seed}"
            flags = ["--eval-only"]
            runs.append(_run(request, recipe, folder, dataset=dataset, seed=seed, flags=flags))
    return runs


def check_trains_nothing(request: Request, recipe: Recipe) -> None:
    """Refuse a protocol without training for a trainer whose recipe trains.

    Raises:
        ValueError: naming protocols that do.
    """
    if recipe.files and not recipe.eval_only and request.trainer not in UNTRAINED:
        raise ValueError(
            f"The protocol {request.protocol} trains nothing, and {request.trainer} learns: use "
            f"fewshot, or for {request.protocol} one of {', '.join(UNTRAINED)}."
        )


def _base2new(request: Request) -> list[Run]:
    """Train and test on the base classes, then test on the new ones."""
    runs = []
    for dataset in request.datasets:
        recipe = request.resolve(dataset)
        if request.with_zeroshot:
            for half in ("base", "new"):
                runs += zeroshot_runs(request, dataset, recipe.backbone, half=half)
        name = _folder(request, recipe, request.shots)
        level = Path(dataset_name(dataset), request.trainer, name)
        for seed in _seeds(request, recipe):
            made: list[Run] = []
            for half in ("base", "new"):
                folder = request.output / "base2new" / _level(half) / level / f"seed{seed}"
                opts = ["DATASET.NUM_SHOTS", str(request.shots), "DATASET.SUBSAMPLE_CLASSES", half]
                made.append(
                    _run(
                        request,
                        recipe,
                        folder,
                        dataset=dataset,
                        seed=seed,
                        part=half,
                        opts=opts,
                        flags=["--eval-only"] if half == "new" else [],
                        needs=made[0] if made else None,
                    )
                )
            runs += made
    return runs


def _level(half: str) -> str:
    return "train_base" if half == "base" else "test_new"


def _transfer(request: Request) -> list[Run]:
    """Train on the source (an ordinary few-shot run, shared with it), test on the targets."""
    runs = []
    for source in request.datasets:
        recipe = request.resolve(source)
        targets = request.targets or transfer_targets(request.protocol, source)
        if request.with_zeroshot:
            for dataset in (source, *targets):
                runs += zeroshot_runs(request, dataset, recipe.backbone)
        name = _folder(request, recipe, request.shots)
        for seed in _seeds(request, recipe):
            trained = _trained(request, recipe, source, seed)
            runs += trained
            for target in targets:
                folder = request.output / request.protocol / dataset_name(target)
                runs.append(
                    _run(
                        request,
                        recipe,
                        folder / request.trainer / name / f"seed{seed}",
                        dataset=target,
                        seed=seed,
                        part="target",
                        opts=["DATASET.NUM_SHOTS", str(request.shots)],
                        flags=["--eval-only"],
                        needs=trained[-1],
                    )
                )
    return runs


def _lodo(request: Request) -> list[Run]:
    """Leave each domain out in turn: train on the others, test on it."""
    runs = []
    for dataset in request.datasets:
        recipe = request.resolve(dataset, shots=0)
        domains = chosen_domains(dataset, request.domains, request.root)
        level = request.output / "lodo" / dataset_name(dataset) / request.trainer
        level = level / _folder(request, recipe, None)
        teacher = _teacher(request, recipe, dataset)
        has_zeroshot = request.with_zeroshot and not recipe.eval_only and teacher
        for seed in _seeds(request, recipe):
            for domain in domains:
                flags = ["--target-domains", domain]
                if recipe.eval_only:
                    flags.append("--eval-only")
                if has_zeroshot:
                    runs.append(_zeroshot_domain(request, dataset, teacher, seed, domain))
                folder = level / f"seed{seed}" / f"te_{slug(domain)}"
                common: dict[str, Any] = {"dataset": dataset, "seed": seed, "flags": flags}
                if request.stage:
                    runs += _stages(request, recipe, folder, common)
                else:
                    runs.append(_run(request, recipe, folder, **common))
    return runs


def _teacher(request: Request, recipe: Recipe, dataset: str) -> str:
    """The CLIP of the zero-shot row: the teacher, or "" if that is a black box."""
    _, pairs = request.user_words()
    given = dict(zip(pairs[::2], pairs[1::2])).get("TRAINER.VL2V.TEACHER")
    default = "toy/ViT" if dataset.startswith("toy_") else "ViT-B/16"
    teacher = str(given or recipe.value("TRAINER.VL2V.TEACHER") or default)
    return "" if teacher.startswith(BLACK_BOXES) else teacher


def _stages(request: Request, recipe: Recipe, folder: Path, common: dict) -> list[Run]:
    """The stages of a staged trainer up to the asked one; finished ones are skipped."""
    stages = STAGES.get(request.trainer, ())
    names = [name for name, _ in stages]
    if request.stage not in names:
        known = ", ".join(names) or "none"
        raise ValueError(f"{request.trainer} has no stage {request.stage!r}. Known: {known}.")
    made: list[Run] = []
    for name, trainer in stages[: names.index(request.stage) + 1]:
        needs: dict[str, Any] = {"needs": made[-1], "link": "MODEL.INIT_WEIGHTS"} if made else {}
        made.append(_run(request, recipe, folder / name, trainer=trainer, **common, **needs))
    return made


def zeroshot_runs(request: Request, dataset: str, backbone: str, *, half: str = "") -> list[Run]:
    """The zero-shot row beside a method: the same backbone and test set, nothing learned."""
    if not backbone or request.trainer == "ZeroshotCLIP":
        return []
    named = recipe_dataset(dataset)
    recipe = resolve("ZeroshotCLIP", named, shots=0, protocol="zeroshot", backbone=backbone)
    name = f"{recipe.label}_0shots"
    level = Path("base2new", _level(half)) if half else Path("zeroshot")
    folder = request.output / level / dataset_name(dataset) / "ZeroshotCLIP" / name / "seed1"
    about = ["RUN.PROTOCOL", "base2new" if half else "zeroshot"]
    about += ["RUN.PART", half, "DATASET.SUBSAMPLE_CLASSES", half] if half else []
    about += ["RUN.RECIPE", recipe.label] if recipe.label != recipe.name else []
    return [_companion(request, recipe, folder, dataset, seed=1, opts=about)]


def _zeroshot_domain(request: Request, dataset: str, backbone: str, seed: int, domain: str) -> Run:
    named = recipe_dataset(dataset)
    recipe = resolve("ZeroshotCLIP", named, shots=0, protocol="lodo", backbone=backbone)
    level = request.output / "lodo" / dataset_name(dataset) / "ZeroshotCLIP" / recipe.label
    folder = level / f"seed{seed}" / f"te_{slug(domain)}"
    flags, opts = ["--target-domains", domain], ["RUN.PROTOCOL", "lodo"]
    return _companion(
        request, recipe, folder, dataset, seed=seed, opts=opts, flags=flags, not_shared=("INPUT.",)
    )  # INPUT is the student's: CLIP has its own size and statistics


def _companion(
    request: Request,
    recipe: Recipe,
    folder: Path,
    dataset: str,
    *,
    seed: int,
    opts: list[str],
    flags: Sequence[str] = (),
    not_shared: tuple[str, ...] = (),
) -> Run:
    """A zero-shot run; of the user's settings only those about data and device apply."""
    _, pairs = request.user_words()
    for key, value in zip(pairs[::2], pairs[1::2]):
        if key.startswith(SHARED_KEYS) and not key.startswith((*NOT_SHARED_KEYS, *not_shared)):
            opts = [*opts, key, value]
    words = [*request.data_words(dataset), "--seed", str(seed), "--trainer", "ZeroshotCLIP"]
    words += [*recipe.arguments(), *flags, "--eval-only"]
    return Run(
        folder, words, [*opts, *recipe.opts], tolerant=True, dataset=dataset,
        backbone=recipe.backbone,
    )  # fmt: skip


def handed_on(folder: Path, link: str) -> str:
    """What a finished run gives to the next one: its folder, or the base that it trained."""
    if link != "--enhanced-base":
        return folder.as_posix()
    files = sorted(folder.glob("strong_base/*/*/model.pth.tar"))
    return (files[0] if files else folder / "strong_base").as_posix()
