"""What `train.py --list` prints: trainers, datasets, recipes and backbones, as plain text."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from dassl.config import describe_settings
from dassl.config.files import CONFIGS, RECIPES, config_names, read_layers, shown
from dassl.config.recipes import TRAINERS_DIR, existing_recipe, stated_value
from dassl.config.tools import leaves
from dassl.flags import FlagParser
from dassl.utils.registry import Registry
from dassl.utils.text import did_you_mean

WIDTH = 100  # columns
CLIP_FORMS = {  # what else --backbone takes
    "open_clip:<architecture>/<weights>": "see --list backbones:open_clip",
    "hf-hub:<organisation>/<repository>": "an open_clip model on the Hugging Face hub",
    "<path>": "a weights file, or a folder downloaded from the Hugging Face hub",
}


def listing(asked: str) -> str:
    """The answer to `--list WHAT` or `--list WHAT:NAME`.

    Raises:
        ValueError: an unknown WHAT or NAME; names what is like it.
        FileNotFoundError: an unknown recipe.
    """
    kinds = {
        "trainers": (_trainers, _one_trainer),
        "datasets": (_datasets, _one_dataset),
        "recipes": (_recipes, _one_recipe),
        "backbones": (_backbones, _some_backbones),
    }
    what, _, name = asked.partition(":")
    if what not in kinds:
        raise ValueError(
            f"--list {asked}: expected one of {', '.join(kinds)}, alone or with a name, as "
            f"recipes:TaskRes. {did_you_mean(what, kinds, list_all=False)}"
        )
    everything, one = kinds[what]
    return "\n".join(one(name) if name else everything())


def aligned(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Lines of columns; the last column is wrapped below itself."""
    table = [tuple(map(str, row)) for row in rows]
    widths = [max(map(len, column)) + 2 for column in list(zip(*table))[:-1]]
    indent = sum(widths)
    for row in table:
        start = "".join(cell.ljust(width) for cell, width in zip(row, widths))
        words = textwrap.wrap(row[-1], max(WIDTH - indent, 30), break_on_hyphens=False) or [""]
        yield (start + words[0]).rstrip()
        yield from (" " * indent + more for more in words[1:])


def summary(docstring: str | None) -> str:
    """The first paragraph of a docstring, on one line."""
    paragraph = (docstring or "").strip().split("\n\n")[0]
    return " ".join(paragraph.split())


def _known(name: str, known: Iterable[str], what: str) -> None:
    known = list(known)
    if name not in known:
        raise ValueError(f'Unknown {what} "{name}". {did_you_mean(name, known)}')


# --------------------------------------------------------------------- trainers
def _trainer_registry() -> Registry:
    importlib.import_module("trainers")  # makes them known
    registry: Registry = importlib.import_module("dassl.engine").TRAINER_REGISTRY
    return registry


def _trainers() -> Iterator[str]:
    registry = _trainer_registry()
    names = sorted(registry.registered_names(), key=str.lower)
    return aligned((name, summary(registry.docstring(name))) for name in names)


def _one_trainer(name: str) -> Iterator[str]:
    """Its keys: default, and what is declared of them."""
    registry = _trainer_registry()
    registry.raise_if_broken(name)
    _known(name, registry.registered_names(), "trainer")
    kind = registry.get(name)
    yield f"{name}: {summary(kind.__doc__)}"
    if not hasattr(kind, "default_cfg"):
        yield "It declares no keys: it takes those that a config file or the command line gives."
        return
    described = {row.key: row for row in describe_settings(kind)}
    rows = []
    for key, default in leaves(kind.default_cfg()):
        row = described.get(key)
        about = [row.about, row.allowed, row.read] if row else []
        rows.append((key, repr(default), "; ".join(filter(None, about))))
    yield from aligned(rows)


# --------------------------------------------------------------------- datasets
def _dataset_path(name: str) -> Path:
    return CONFIGS / "datasets" / f"{name}.yaml"


def _about(path: Path) -> tuple[str, str]:
    """Class of a dataset config, and what it is: said by the file if it holds that class alone."""
    importlib.import_module("datasets")  # registers them
    registry = importlib.import_module("dassl.data.datasets").DATASET_REGISTRY
    name = str(stated_value(path, "DATASET.NAME"))
    if name not in registry:
        return name, "(not registered)"
    kind = registry.get(name)
    in_file = [
        other for other in registry.snapshot().values() if other.__module__ == kind.__module__
    ]
    return name, summary((sys.modules[kind.__module__] if in_file == [kind] else kind).__doc__)


def _datasets() -> Iterator[str]:
    names = config_names(CONFIGS / "datasets")
    return aligned((name, *_about(_dataset_path(name))) for name in names)


def _one_dataset(name: str) -> Iterator[str]:
    """What it is, and what its config sets."""
    _known(name, config_names(CONFIGS / "datasets"), "dataset")
    path = _dataset_path(name)
    yield f"{name}: {_about(path)[1]}"
    yield from aligned((key, repr(value)) for key, value in settings(path).items())


# --------------------------------------------------------------------- recipes
def settings(path: Path) -> dict[str, Any]:
    """KEY.SUBKEY -> value of all that a config and its bases set."""
    return dict(pair for layer in read_layers(path) for pair in leaves(layer.content))


def _recipes() -> Iterator[str]:
    rows = []
    for folder in sorted(path for path in TRAINERS_DIR.iterdir() if path.is_dir()):
        rows.append(
            (folder.name, ", ".join(config_names(folder) or ["(those of another trainer)"]))
        )
    return aligned(rows)


def _one_recipe(name: str) -> Iterator[str]:
    """Of a trainer its file of recipes; of one recipe all that it sets, as a config file."""
    trainer, _, recipe = name.partition("/")
    _known(trainer, (path.name for path in TRAINERS_DIR.iterdir()), "trainer with recipes")
    if recipe:
        path = existing_recipe(trainer, recipe)
        yield f"# {trainer}/{recipe} with all that it is based on"
        yield yaml.safe_dump(nested(settings(path)), sort_keys=False).rstrip()
        return
    path = TRAINERS_DIR / trainer / RECIPES
    if path.is_file():
        yield f"# {shown(path)}"
        yield path.read_text(encoding="utf-8").rstrip()
    else:
        yield from config_names(path.parent)


def nested(pairs: dict[str, Any]) -> dict[str, Any]:
    """The sections that dotted keys stand for."""
    tree: dict[str, Any] = {}
    for key, value in pairs.items():
        *sections, last = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    return tree


# --------------------------------------------------------------------- backbones
def _backbones() -> Iterator[str]:
    clip = importlib.import_module("clip")
    yield "CLIP backbones, for most trainers:"
    rows = [(name, _whether_here(clip.weights_path(name))) for name in clip.available_models()]
    yield from ("  " + line for line in aligned([*rows, *CLIP_FORMS.items()]))
    importlib.import_module("trainers.common.networks")  # registers some of them
    networks = importlib.import_module("dassl.modeling.networks")
    yield "Image networks, for ERM, LP, LPFT, MIRO, NaiveKD and VL2VADiP:"
    forms = [(source.example, "") for source in networks.SOURCES.values()]
    short = networks.SHORT_NAMES.items()
    yield from ("  " + line for line in aligned([*short, *forms]))


def _some_backbones(name: str) -> Iterator[str]:
    """All names of open_clip, or the lines that hold a word."""
    if name.rstrip(":") == "open_clip":
        known = importlib.import_module("open_clip").list_pretrained()
        yield from (f"open_clip:{architecture}/{weights}" for architecture, weights in known)
        return
    found = [line.strip() for line in _backbones() if name.lower() in line.lower()]
    if not found:
        raise ValueError(f'No backbone has "{name}" in its name; see --list backbones.')
    yield from found


def _whether_here(path: Path) -> str:
    return shown(path) if path.is_file() else "downloaded when first used"


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `vltune list WHAT [NAME]`."""
    parser = FlagParser(description="Print what the package has, or all about one thing of it.")
    parser.add_argument("what", help="trainers, datasets, recipes or backbones")
    parser.add_argument(
        "name", nargs="?", default="", help="one of them: MMA, oxford_pets, TaskRes/rn50, ViT"
    )
    args = parser.parse_args(argv)
    print(listing(f"{args.what}:{args.name}" if args.name else args.what))
