"""Which recipe a run takes: trainer, dataset, shots, protocol and backbone -> config files.

Each trainer keeps its recipes, and the answer, in `configs/trainers/<Trainer>/recipes.yaml`:

    backbone: RN50                                  # where --backbone is not given
    recipe:                                         # the first line that fits names the recipe
      - {file: toy, dataset: "toy_*"}
      - {file: "{backbone}_ep50", dataset: imagenet}
      - {file: "{backbone}_ep50", shots: 1}
      - {file: "{backbone}"}                        # no condition: everything else
    add:                                            # every line that fits, in this order
      - {file: imagenet, dataset: "imagenet*"}
      - {opts: {TRAINER.TaskRes.RESIDUAL_SCALE: 1.0}, dataset: oxford_flowers}
    eval_only: true                                 # nothing to train (zero-shot, test-time)
    seeds: [1]                                      # where SEEDS is not given (default 1 2 3)
    files:                                          # the recipes, by name
      rn50: {_BASE_: ../../base/clip_images.yaml, OPTIM: {LR: 2e-3, MAX_EPOCH: 200}}
      rn50_ep50: {_BASE_: rn50.yaml, OPTIM: {MAX_EPOCH: 50}}
      imagenet: {OPTIM: {LR: 2e-4}}                 # without a backbone: adds to a recipe

Conditions are `dataset`, `shots`, `protocol`, `backbone`, `variant` (a setting of the method, given
by --variant, e.g. DMN's training_free; it ends the folder's name) and `recipe` (the name of the
recipe), each a value or a list, with the wildcards of file names (`*`, `?`, `[!a]`). All conditions
of a line must hold. A `file` is an entry under `files`, a YAML file in the trainer's folder, or
`Other/name` for one of another trainer; dassl/config/files.py describes entries and `_BASE_`.
`{backbone}` stands for the backbone in file name form (`ViT-B/16` -> `vit_b16`); where that recipe
does not exist, the one of the trainer's own backbone is taken and `--backbone` replaces its
backbone. `<recipe>_<dataset>` is added by itself where it exists. Without `recipe` lines `toy`
serves the toy sets and the only other recipe everything else.

Config files that a user names are taken as given, with two exceptions: a name of an official
repository stands for our recipe (dassl/config/official.py), and a file of ours that only adds to a
recipe (it names no backbone, or is in an `add` line) follows the one that it belongs to.
`train.py --list recipes:<Trainer>/<name>` prints what a recipe sets with all of its bases.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from dassl.utils.text import did_you_mean

from .files import (
    CONFIGS,
    RECIPES,
    config_names,
    existing_yaml,
    find_yaml,
    is_config,
    read_layers,
    read_mapping,
    shown,
)
from .official import find_official

TRAINERS_DIR = CONFIGS / "trainers"
CONDITIONS = ("dataset", "shots", "protocol", "backbone", "variant", "recipe")
TOP_KEYS = {"backbone", "recipe", "add", "eval_only", "seeds", "files"}


@dataclass(frozen=True)
class Recipe:
    """The answer: config files in merge order, options after them, and what they amount to.

    `notes` say what was made of files that the user gave.
    """

    name: str
    files: tuple[Path, ...]
    opts: tuple[str, ...]
    backbone: str
    replaces_backbone: bool = False
    variant: str = ""
    eval_only: bool = False
    seeds: tuple[int, ...] = (1, 2, 3)
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Name for folders: the recipe, its variant, and the backbone where it is not its own."""
        words = [self.name]
        words += [self.variant] if self.variant and self.variant not in self.name else []
        words += [slug(self.backbone)] if self.replaces_backbone else []
        return "_".join(words)

    def arguments(self) -> list[str]:
        """Command-line arguments for train.py; flags first, `opts` apart (they come last)."""
        words = [word for path in self.files for word in ("--config-file", shown(path))]
        return words + (["--backbone", self.backbone] if self.replaces_backbone else [])

    def in_words(self) -> str:
        """Files and options in the order in which they count."""
        pairs = (" ".join(pair) for pair in zip(self.opts[::2], self.opts[1::2]))
        return ", ".join([*map(recipe_name, self.files), *pairs])

    def value(self, key: str, default: object = None) -> object:
        """A config value that the files or options set, e.g. `MODEL.BACKBONE.NAME`."""
        found = default
        for layer in (layer for path in self.files for layer in read_layers(path)):
            node: object = layer.content
            for name in key.split("."):
                node = node.get(name) if isinstance(node, dict) else None
            found = found if node is None else node
        for name, value in zip(self.opts[::2], self.opts[1::2]):
            found = value if name == key else found
        return found


def recipe_name(path: Path) -> str:
    """How messages name a config: `TaskRes/rn50_ep100` of our recipes, a path of other files."""
    ours = path.absolute().parent.parent == TRAINERS_DIR
    return f"{path.parent.name}/{path.stem}" if ours else shown(path)


def stated_value(path: Path, key: str) -> object:
    """What a config sets a key to, itself or by its bases; None if it does not."""
    return Recipe("", (path,), (), "").value(key)


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
        config_files: in place of the look-up; the first one names the recipe.
        directory: where the trainers' folders are.

    Raises:
        FileNotFoundError: no such trainer folder or recipe; lists what there is.
        ValueError: an unknown variant, a recipes.yaml with unknown keys, or no line of it fits; a
            recipe's name beside config files; an addition without the recipe that it belongs to.
    """
    facts = {"dataset": dataset, "shots": shots, "protocol": protocol, "variant": variant}
    if not config_files:
        return _look_up(trainer, facts, backbone=backbone, recipe=recipe, directory=directory)
    if recipe:
        raise ValueError(
            f"--recipe {recipe} and --config-file {config_files[0]}: give one of them."
        )
    given = read_given(config_files)
    fixed = _fixed(_rules(directory / trainer), variant)
    addition = _lonely_addition(given.files, directory)
    if addition is None:
        return _with_backbone(given, backbone, fixed)
    base = _base_of(addition, trainer, facts, backbone=backbone, directory=directory)
    more = [path for path in given.files if path not in base.files]
    whole = replace(base, files=(*base.files, *more), opts=(*base.opts, *given.opts))
    note = f"{recipe_name(addition)} adds to a recipe. Taken together: {whole.in_words()}."
    return _with_backbone(replace(whole, notes=(*given.notes, note)), backbone, fixed)


def _fixed(rules: dict, variant: str) -> dict:
    """Fields of a recipe that do not depend on its files."""
    seeds = tuple(rules.get("seeds", (1, 2, 3)))
    return {"variant": variant, "eval_only": bool(rules.get("eval_only", False)), "seeds": seeds}


def _look_up(
    trainer: str, facts: dict, *, backbone: str | None, recipe: str | None, directory: Path
) -> Recipe:
    """The recipe that the rules of a trainer give."""
    rules = _rules(directory / trainer)
    own = str(rules.get("backbone") or "")
    _check_variant(trainer, facts["variant"], rules)
    fixed = _fixed(rules, facts["variant"])
    facts = {**facts, "backbone": backbone or own}
    main = _main_file(trainer, rules, facts, own=own, recipe=recipe, directory=directory)
    if main is None:
        return Recipe("default", (), (), backbone or "", bool(backbone), **fixed)

    facts["recipe"] = main.stem
    facts["backbone"] = backbone or str(stated_value(main, "MODEL.BACKBONE.NAME") or own)
    files, opts = _additions(trainer, rules, facts, directory)
    files.insert(0, main)
    extra = main.with_name(f"{main.stem}_{facts['dataset']}.yaml")
    if is_config(extra) and extra not in files:
        files.append(extra)
    return _with_backbone(Recipe(main.stem, tuple(files), tuple(opts), ""), backbone, fixed)


def read_given(paths: Sequence[str | Path]) -> Recipe:
    """Files that a user names, as a recipe: taken as they are, official names as our files.

    Raises:
        FileNotFoundError: naming the files that look alike.
    """
    files: list[Path] = []
    opts: list[str] = []
    notes: list[str] = []
    name = ""
    for path in paths:
        official = None if find_yaml(path) else find_official(path)
        if official is None:
            files.append(existing_yaml(path, "--config-file"))
            name = name or files[-1].stem
            continue
        files += official.files
        opts += official.opts
        name = name or official.name
        meaning = Recipe("", official.files, official.opts, "")
        notes.append(f"{path} is here: {meaning.in_words()}.")
    return Recipe(name, tuple(files), tuple(opts), "", notes=tuple(notes))


def _lonely_addition(files: Sequence[Path], directory: Path) -> Path | None:
    """The first file, if it adds to a recipe and no recipe is among the files."""
    additions = [path for path in files if _is_addition(path, directory)]
    recipes = [p for p in files if p not in additions and stated_value(p, "MODEL.BACKBONE.NAME")]
    return files[0] if files[0] in additions and not recipes else None


def _is_addition(path: Path, directory: Path) -> bool:
    """Whether a file of ours is made to follow another: it has no backbone, or an add line."""
    path = path.resolve()
    if path.parent.parent != directory.resolve():
        return False
    added = [line.get("file") for line in _rules(path.parent).get("add", ())]
    return path.stem in added or not stated_value(path, "MODEL.BACKBONE.NAME")


def _base_of(
    addition: Path, trainer: str, facts: dict, *, backbone: str | None, directory: Path
) -> Recipe:
    """The recipe that an addition belongs to: by its name, else the trainer's for this run.

    Raises:
        ValueError: if it may belong to several; says what to type.
    """
    folder, own = addition.parent, directory / trainer
    paths = (folder / f"{name}.yaml" for name in config_names(folder))
    names = [path.stem for path in paths if not _is_addition(path, directory)]
    fitting = [name for name in names if addition.stem.startswith(f"{name}_")]
    is_named = bool(fitting) and folder.resolve() == own.resolve()
    if "recipe" in _rules(own) and not is_named:
        return _look_up(trainer, facts, backbone=backbone, recipe=None, directory=directory)
    if not fitting:
        raise ValueError(
            f"{shown(addition)} adds to a recipe and is none itself. Give the recipe first: "
            f"--config-file {shown(folder)}/NAME.yaml --config-file {shown(addition)}, with NAME "
            f"one of {', '.join(names) or '(there is none)'}."
        )
    recipe = f"{folder.name}/{max(fitting, key=len)}"
    return _look_up(trainer, facts, backbone=backbone, recipe=recipe, directory=directory)


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
    files: list[Path] = []
    opts: list[str] = []
    for line in rules.get("add", ()):
        if _fits(line, facts):
            if "file" in line:
                name = _named(line, facts["backbone"])
                files.append(existing_recipe(trainer, name, directory))
            for key, value in (line.get("opts") or {}).items():
                opts += [key, str(value)]
    return files, opts


def _with_backbone(plain: Recipe, backbone: str | None, fixed: dict) -> Recipe:
    own = str(plain.value("MODEL.BACKBONE.NAME") or "")
    replaced = backbone is not None and backbone != own
    return replace(plain, backbone=backbone or own, replaces_backbone=replaced, **fixed)


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
    names = config_names(folder)
    if recipe:
        return existing_recipe(trainer, recipe, directory)
    for line in rules.get("recipe", ()):
        if _fits(line, facts):
            choices = [_named(line, backbone) for backbone in (facts["backbone"], own)]
            there = (name for name in choices if is_config(_path(trainer, name, directory)))
            return existing_recipe(trainer, next(there, choices[0]), directory)
    if "recipe" in rules:
        raise ValueError(f"No line of {folder / 'recipes.yaml'} fits {facts}. Give --recipe NAME.")
    if not names:
        return None
    is_toy = facts["dataset"].startswith("toy_")
    if is_toy and "toy" in names:
        return folder / "toy.yaml"
    others = [
        name
        for name in names
        if name != "toy" and not _is_addition(folder / f"{name}.yaml", directory)
    ]
    if len(others) == 1:
        return folder / f"{others[0]}.yaml"
    raise FileNotFoundError(
        f"{trainer} has several recipes and no rule that chooses: {', '.join(others)}. "
        f"Give --recipe NAME or --config-file FILE."
    )


def _rules(folder: Path) -> dict:
    path = folder / RECIPES
    rules = read_mapping(path) if path.is_file() else {}
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


def _named(line: dict, backbone: str) -> str:
    return str(line["file"]).replace("{backbone}", slug(backbone))


def _path(trainer: str, name: str, directory: Path) -> Path:
    folder = directory if "/" in name else directory / trainer
    return folder / f"{name}.yaml"


def existing_recipe(trainer: str, recipe: str, directory: Path = TRAINERS_DIR) -> Path:
    """The path that names a recipe of a trainer, or `Other/name` of another.

    Raises:
        FileNotFoundError: there is none; names those there are.
    """
    if ".." in Path(recipe).parts:
        raise FileNotFoundError(
            f'"{recipe}" is not the name of a recipe: expected NAME, or Trainer/NAME of another.'
        )
    path = _path(trainer, recipe, directory)
    if is_config(path):
        return path
    hint = did_you_mean(path.stem, config_names(path.parent))
    raise FileNotFoundError(f'{path.parent.name} has no recipe "{path.stem}". {hint}')
