"""Which config files make a run: trainer, dataset, shots, protocol and backbone -> YAML files.

Each trainer keeps the answer as data in `configs/trainers/<Trainer>/recipes.yaml`:

    backbone: RN50                                  # where --backbone is not given
    recipe:                                         # the first line that fits gives the main file
      - {file: toy, dataset: "toy_*"}
      - {file: "{backbone}_ep50", dataset: imagenet}
      - {file: "{backbone}_ep50", shots: 1}
      - {file: "{backbone}_ep100", shots: [2, 4]}
      - {file: "{backbone}"}                        # no condition: everything else
    add:                                            # every line that fits, in this order
      - {file: imagenet, dataset: "imagenet*"}
      - {opts: {TRAINER.TaskRes.RESIDUAL_SCALE: 1.0}, dataset: oxford_flowers}
    eval_only: true                                 # nothing to train (zero-shot, test-time)
    seeds: [1]                                      # where SEEDS is not given (default 1 2 3)

Conditions are `dataset`, `shots`, `protocol`, `backbone`, `variant` (a setting of the method, given
by --variant, e.g. DMN's training_free; it ends the folder's name) and `recipe` (the name of the
main file), each a value or a list, with the wildcards of file names (`*`, `?`, `[!a]`). All
conditions of a line must hold. A `file` is the name of a YAML in the trainer's folder, or
`Other/name` for one of another trainer. `{backbone}` stands for the backbone in file name form
(`ViT-B/16` -> `vit_b16`); where that file does not exist, the one of the trainer's own backbone is
taken and `--backbone` replaces its backbone. `<recipe>_<dataset>.yaml` is added by itself where it
exists. Without a recipes.yaml the folder's `toy.yaml` serves the toy sets and its only other file
everything else.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
TRAINERS_DIR = ROOT / "configs" / "trainers"
CONDITIONS = ("dataset", "shots", "protocol", "backbone", "variant", "recipe")
TOP_KEYS = {"backbone", "recipe", "add", "eval_only", "seeds"}


@dataclass(frozen=True)
class Recipe:
    """The answer: config files in merge order, options after them, and what they amount to."""

    name: str
    files: tuple[Path, ...]
    opts: tuple[str, ...]
    backbone: str
    replaces_backbone: bool = False
    variant: str = ""
    eval_only: bool = False
    seeds: tuple[int, ...] = (1, 2, 3)

    @property
    def label(self) -> str:
        """Name for folders: the recipe, its variant, and the backbone where it is not its own."""
        words = [self.name]
        words += [self.variant] if self.variant and self.variant not in self.name else []
        words += [slug(self.backbone)] if self.replaces_backbone else []
        return "_".join(words)

    def arguments(self) -> list[str]:
        """Command-line arguments for train.py; flags first, `opts` apart (they come last)."""
        words = [word for path in self.files for word in ("--config-file", _shown(path))]
        return words + (["--backbone", self.backbone] if self.replaces_backbone else [])

    def value(self, key: str, default: object = None) -> object:
        """A config value that the files or options set, e.g. `MODEL.BACKBONE.NAME`."""
        found = default
        for path in self.files:
            node = _load(path)
            for name in key.split("."):
                node = node.get(name) if isinstance(node, dict) else None
            found = found if node is None else node
        for name, value in zip(self.opts[::2], self.opts[1::2]):
            found = value if name == key else found
        return found


def slug(backbone: str) -> str:
    """File name form of a backbone: `ViT-B/16` -> `vit_b16`, `toy/ViT` -> `toy_vit`."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"/(?=\d)", "", backbone.lower()))


def resolve(
    trainer: str,
    dataset: str,
    *,
    shots: int = 16,
    protocol: str = "fewshot",
    backbone: str | None = None,
    recipe: str | None = None,
    variant: str = "",
    config_files: Sequence[str | Path] = (),
    directory: Path = TRAINERS_DIR,
) -> Recipe:
    """Find the config files of one run.

    Args:
        trainer: registered name, also the folder under `configs/trainers`.
        dataset: config name, e.g. `oxford_pets`.
        shots: images per class (0 where nothing is trained).
        protocol: fewshot, base2new, xd, dg, lodo, testtime or zeroshot.
        backbone: overrides the recipe's own.
        recipe: overrides the choice of the main file.
        variant: setting of the method that lines of recipes.yaml may ask for.
        config_files: replace the look-up altogether; the first one names the recipe.
        directory: where the trainers' folders are.

    Raises:
        FileNotFoundError: no such trainer folder or recipe; lists what there is.
        ValueError: an unknown variant, a recipes.yaml with unknown keys, or no line of it fits.
    """
    rules = _rules(directory / trainer)
    own = str(rules.get("backbone") or "")
    facts = {"dataset": dataset, "shots": shots, "protocol": protocol, "backbone": backbone or own}
    facts["variant"] = variant
    _check_variant(trainer, variant, rules)
    fixed = {
        "variant": variant,
        "eval_only": bool(rules.get("eval_only", False)),
        "seeds": tuple(rules.get("seeds", (1, 2, 3))),
    }
    if config_files:
        files = [Path(path) for path in config_files]
        _must_exist(files)
        return _with_backbone(files[0].stem, files, (), backbone, fixed)
    main = _main_file(trainer, rules, facts, own=own, recipe=recipe, directory=directory)
    if main is None:
        return Recipe("default", (), (), backbone or "", bool(backbone), **fixed)

    facts["recipe"] = main.stem
    facts["backbone"] = backbone or str(_node(main, "MODEL.BACKBONE.NAME") or own)
    files, opts = _additions(trainer, rules, facts, directory)
    files.insert(0, main)
    extra = main.with_name(f"{main.stem}_{dataset}.yaml")
    if extra.is_file() and extra not in files:
        files.append(extra)
    _must_exist(files)
    return _with_backbone(main.stem, files, tuple(opts), backbone, fixed)


def _check_variant(trainer: str, variant: str, rules: dict) -> None:
    """Refuse a variant that no line asks for: it would change the name of the run alone."""
    lines = [*rules.get("recipe", ()), *rules.get("add", ())]
    wanted = [line["variant"] for line in lines if "variant" in line]
    flat = {name for one in wanted for name in (one if isinstance(one, list) else [one])}
    known = sorted(flat - {""})  # "": where none is asked for
    if variant and variant not in known:
        raise ValueError(
            f'{trainer} has no variant "{variant}". Known: {", ".join(known) or "none"}.'
        )


def _additions(
    trainer: str, rules: dict, facts: dict, directory: Path
) -> tuple[list[Path], list[str]]:
    """Files and options of the `add` lines that fit."""
    files, opts = [], []
    for line in rules.get("add", ()):
        if _fits(line, facts):
            if "file" in line:
                files.append(_path(trainer, line["file"], facts["backbone"], directory))
            for key, value in (line.get("opts") or {}).items():
                opts += [key, str(value)]
    return files, opts


def _with_backbone(
    name: str, files: list[Path], opts: tuple[str, ...], backbone: str | None, fixed: dict
) -> Recipe:
    plain = Recipe(name, tuple(files), opts, "", **fixed)
    own = str(plain.value("MODEL.BACKBONE.NAME") or "")
    replaced = backbone is not None and backbone != own
    return Recipe(name, tuple(files), opts, backbone or own, replaced, **fixed)


def _main_file(
    trainer: str,
    rules: dict,
    facts: dict,
    *,
    own: str,
    recipe: str | None,
    directory: Path,
) -> Path | None:
    """The main YAML, or None for a trainer without any (its defaults are the recipe)."""
    folder = directory / trainer
    names = _names(folder)
    if recipe:
        return _existing(trainer, recipe, names, directory)
    for line in rules.get("recipe", ()):
        if _fits(line, facts):
            path = _path(trainer, line["file"], facts["backbone"], directory)
            if not path.is_file() and "{backbone}" in line["file"] and own:
                path = _path(trainer, line["file"], own, directory)
            _must_exist([path])
            return path
    if "recipe" in rules:
        raise ValueError(f"No line of {folder / 'recipes.yaml'} fits {facts}. Give --recipe NAME.")
    if not names:
        return None
    is_toy = facts["dataset"].startswith("toy_")
    if is_toy and "toy" in names:
        return folder / "toy.yaml"
    others = [name for name in names if name != "toy"]
    if len(others) == 1:
        return folder / f"{others[0]}.yaml"
    raise FileNotFoundError(
        f"{trainer} has several recipes and no recipes.yaml that chooses: {', '.join(names)}. "
        f"Give --recipe NAME or --config-file FILE."
    )


def _rules(folder: Path) -> dict:
    path = folder / "recipes.yaml"
    rules = _load(path) if path.is_file() else {}
    unknown = sorted(set(rules) - TOP_KEYS)
    for line in [*rules.get("recipe", ()), *rules.get("add", ())]:
        unknown += sorted(set(line) - {*CONDITIONS, "file", "opts"})
    if unknown:
        raise ValueError(f"{path}: unknown keys {unknown}. Known: {sorted(TOP_KEYS)}, lines: file, "
                         f"opts, {', '.join(CONDITIONS)}.")  # fmt: skip
    return rules


def _fits(line: dict, facts: dict) -> bool:
    for name in CONDITIONS:
        if name in line:
            wanted = line[name] if isinstance(line[name], list) else [line[name]]
            if not any(fnmatchcase(str(facts.get(name, "")), str(item)) for item in wanted):
                return False
    return True


def _path(trainer: str, file: str, backbone: str, directory: Path) -> Path:
    name = file.replace("{backbone}", slug(backbone))
    folder = directory if "/" in name else directory / trainer
    return folder / f"{name}.yaml"


def _names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml") if path.stem != "recipes")


def _existing(trainer: str, recipe: str, names: list[str], directory: Path) -> Path:
    path = _path(trainer, recipe, "", directory)
    if path.is_file():
        return path
    close = difflib.get_close_matches(recipe, names, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    known = ", ".join(names) or "none"
    raise FileNotFoundError(f'{trainer} has no recipe "{recipe}".{hint} Known: {known}.')


def _must_exist(files: Sequence[Path]) -> None:
    for path in files:
        if not path.is_file():
            known = ", ".join(_names(path.parent)) or "none"
            raise FileNotFoundError(f"No config file {_shown(path)}. {path.parent} holds: {known}.")


def _node(path: Path, key: str) -> object:
    return Recipe("", (path,), (), "").value(key)


def _load(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def _shown(path: Path) -> str:
    """Relative to the repository where possible: commands stay short and portable."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
