"""The command line of ``train.py`` and the config that it makes (CoOp's flags, and a few more)."""

import argparse
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from dassl.config import check_ranges, get_cfg_default
from dassl.flags import FlagParser
from dassl.utils import did_you_mean

from .build import TRAINER_REGISTRY
from .flag_checks import check_flags, check_trainer_flags
from .resume import root_is_the_set
from .trained import take_trained_settings

logger = logging.getLogger(__name__)
REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "configs"
DEFAULT_DATASET = "toy_objects"
DEFAULT_SIZE = (224, 224)  # pixels, for trainers whose network does not say
LISTS = ("source_domains", "target_domains", "transforms")  # flags of one or more words
KEY = re.compile(r"[A-Z][A-Z0-9_]+\.[A-Z]")  # how a config key begins
FOLLOW_BACKBONE = (0, 0)  # INPUT.SIZE that nobody gave


def make_parser() -> argparse.ArgumentParser:
    """Every flag of ``train.py``."""
    parser = FlagParser(
        prog="train.py",
        description="Train and test one method on one dataset with one seed.",
        epilog="Further words are KEY VALUE pairs of the config, as OPTIM.MAX_EPOCH 10.",
    )
    add = parser.add_argument
    add("--root", default="", help="folder that holds the datasets (embedded toy sets need none)")
    add("--output-dir", default="", help="folder of the run (default: a tree under output/)")
    add("--resume", default="", help="folder of a run whose checkpoints to go on from")
    add("--seed", type=int, default=-1, help="random seed; 0 is one, a negative one is random")
    add("--source-domains", nargs="+", help="source domains")
    add("--target-domains", nargs="+", help="target domains")
    add("--transforms", nargs="+", help="training transforms, in place of the recipe's")
    add("--dataset", default="", metavar="NAME", help="short for configs/datasets/NAME.yaml")
    add("--dataset-config-file", default="", metavar="YAML", help="dataset config")
    add("--config-file", action="append", default=[], metavar="YAML", help="recipe; repeatable")
    add("--trainer", default="", help="name of the trainer")
    add("--backbone", default="", help="name of the backbone")
    add("--head", default="", help="name of the head (engine networks only)")
    add(
        "--enhanced-base", default="", metavar="PATH", help="TaskRes: base classifier to start from"
    )
    add("--skip-bad-images", action="store_true", help="leave out corrupt images, counting them")
    add(
        "--eval-only",
        action="store_true",
        help="test --model-dir with its own settings; never trains",
    )
    add("--model-dir", default="", help="folder of the run to evaluate (with --eval-only)")
    add("--load-epoch", type=int, help="epoch to load (default: the best or the last one)")
    add("--no-train", action="store_true", help="build everything, train nothing")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys")
    return parser


def make_config(args: argparse.Namespace) -> CfgNode:
    """The frozen config of a run.

    Order: engine defaults, the trainer's ``default_cfg()``, dataset YAML, recipe YAMLs, flags,
    KEY VALUE pairs; in an evaluation the settings of the checkpoint.

    Raises:
        ValueError: an unknown trainer, dataset or value, or a flag without effect.
        KeyError: an unknown config key.
        FileNotFoundError: a YAML that is not there.
    """
    free_pairs(args)
    check_pairs(args.opts)
    check_flags(args)
    cfg = get_cfg_default()
    cfg.INPUT.SIZE = FOLLOW_BACKBONE
    dataset_yaml = find_dataset_yaml(args)
    recipes = find_recipes(args)
    trainer = TRAINER_REGISTRY.get(find_trainer(args, recipes))
    check_trainer_flags(args, trainer)
    if hasattr(trainer, "default_cfg"):
        merge_declared(cfg, trainer.default_cfg())
    cfg.RUN.DATASET = dataset_yaml.stem
    cfg.RUN.RECIPE = recipes[0].stem if recipes else ""
    for path in (dataset_yaml, *recipes):
        merge_yaml(cfg, path)
    merge_flags(cfg, args)
    cfg.merge_from_list(args.opts)
    take_trained_settings(cfg, args, trainer)
    check_ranges(cfg, getattr(trainer, "ranges", None))
    if cfg.DATALOADER.SEEDING == "sample" and "DATALOADER.NUM_WORKERS" not in args.opts[::2]:
        cfg.DATALOADER.NUM_WORKERS = min(cfg.DATALOADER.NUM_WORKERS, available_cores())
    cfg.TRAINER.NAME = trainer.__name__
    if root_is_the_set(cfg.DATASET.NAME):
        cfg.DATASET.ROOT = str(Path(cfg.DATASET.ROOT).expanduser().resolve())
    if tuple(cfg.INPUT.SIZE) == FOLLOW_BACKBONE and not follows_backbone(trainer):
        cfg.INPUT.SIZE = DEFAULT_SIZE
    if not args.output_dir and cfg.OUTPUT_DIR == get_cfg_default().OUTPUT_DIR:
        cfg.OUTPUT_DIR = str(default_output_dir(cfg, is_evaluation=args.eval_only))
    cfg.freeze()
    return cfg


def available_cores() -> int:
    """CPU cores that this process may use."""
    has_affinity = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


def check_pairs(words: Sequence[str]) -> None:
    """Refuse what is no KEY VALUE: a flag among the pairs, or KEY=VALUE.

    Raises:
        ValueError: saying how to write it.
    """
    for place, word in enumerate(words):
        if word.startswith("--"):
            raise ValueError(
                f"{word} stands behind KEY VALUE pairs ({' '.join(words[:2])}). Flags come first."
            )
        key, equals, value = word.partition("=")
        if equals and place % 2 == 0:
            raise ValueError(f"{word}: config keys are given as KEY VALUE, {key} {value}.")


def free_pairs(args: argparse.Namespace) -> None:
    """Give back the KEY VALUE pairs that a flag of many words has swallowed."""
    for name in LISTS:
        words = getattr(args, name) or []
        keys = [i for i, word in enumerate(words) if KEY.match(word)]
        if keys:
            setattr(args, name, words[: keys[0]])
            args.opts = words[keys[0] :] + args.opts


def follows_backbone(trainer: type) -> bool:
    """Whether a trainer fills in INPUT.SIZE itself."""
    return bool(getattr(trainer, "follows_backbone_size", False))


def find_trainer(args: argparse.Namespace, recipes: Iterable[Path]) -> str:
    """The trainer's name: --trainer, else TRAINER.NAME of the pairs or the last recipe.

    Raises:
        ValueError: if there is none, or no trainer has it.
    """
    known = sorted(TRAINER_REGISTRY.registered_names())
    name = args.trainer
    pairs = dict(zip(args.opts[::2], args.opts[1::2]))
    name = name or pairs.get("TRAINER.NAME", "")
    for path in recipes:
        name = name or ((_read_yaml(path).get("TRAINER") or {}).get("NAME") or "")
    if not name:
        raise ValueError(f"No trainer is given. Use --trainer NAME. Known: {', '.join(known)}.")
    if name not in known:
        raise ValueError(f"No trainer is called {name!r}. {did_you_mean(name, known)}")
    return name


def find_dataset_yaml(args: argparse.Namespace) -> Path:
    """The dataset config: --dataset-config-file, --dataset, or the embedded default.

    Raises:
        ValueError: both are given, or no config has the name.
        FileNotFoundError: no such file, or the package was installed without its configs.
    """
    if args.dataset_config_file and args.dataset:
        raise ValueError("Give --dataset or --dataset-config-file, not both.")
    if args.dataset_config_file:
        return existing_yaml(args.dataset_config_file, "--dataset-config-file")
    name = args.dataset
    if not name:
        name = DEFAULT_DATASET
        logger.info("No dataset is given: using the embedded %s (--dataset NAME).", name)
    path = CONFIGS / "datasets" / f"{name}.yaml"
    if not CONFIGS.is_dir():
        raise FileNotFoundError(
            f"There is no {CONFIGS}: configs are not part of an installed package. Work in a clone "
            f"(pip install -e .), or name a file: --dataset-config-file YAML."
        )
    if not path.is_file():
        known = sorted(p.stem for p in (CONFIGS / "datasets").glob("*.yaml"))
        raise ValueError(
            f"--dataset {name}: there is no configs/datasets/{name}.yaml. "
            f"{did_you_mean(name, known)}"
        )
    return path


def find_recipes(args: argparse.Namespace) -> list[Path]:
    """The recipe YAMLs; with neither dataset nor recipe given, the trainer's toy recipe."""
    if args.config_file:
        return [existing_yaml(path, "--config-file") for path in args.config_file]
    toy = CONFIGS / "trainers" / (args.trainer or "-") / "toy.yaml"
    is_toy = (args.dataset or DEFAULT_DATASET).startswith("toy_") and not args.dataset_config_file
    if is_toy and toy.is_file():
        logger.info("No recipe is given: using %s (--config-file YAML).", _shown(toy))
        return [toy]
    names = sorted(path.name for path in toy.parent.glob("*.yaml"))
    recipes = [name for name in names if name not in ("recipes.yaml", "toy.yaml")]
    if recipes:
        own = declared_engine_keys(args.trainer)
        logger.warning(
            "No recipe is given (--config-file YAML): settings are the engine's defaults%s, not "
            "published ones. Recipes of %s in %s: %s.",
            f" (but {', '.join(own)}: those of the trainer)" if own else "",
            args.trainer,
            _shown(toy.parent),
            ", ".join(recipes),
        )
    return []


def declared_engine_keys(trainer: str) -> list[str]:
    """The engine's keys for which a trainer brings a default of its own."""
    known = TRAINER_REGISTRY.registered_names()
    declared = (
        getattr(TRAINER_REGISTRY.get(trainer), "default_cfg", None) if trainer in known else None
    )
    return list(_shared_keys(declared(), get_cfg_default())) if declared else []


def _shared_keys(ours: CfgNode, engine: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in ours.items():
        if isinstance(value, CfgNode) and isinstance(engine.get(key), CfgNode):
            yield from _shared_keys(value, engine[key], f"{prefix}{key}.")
        elif key in engine:
            yield prefix + key


def existing_yaml(given: str, flag: str) -> Path:
    """A YAML file by its path, also relative to the repository.

    Raises:
        FileNotFoundError: naming the files that look alike.
    """
    for path in (Path(given), REPOSITORY / given):
        if path.is_file():
            return path
    folder = Path(given).parent if Path(given).parent.is_dir() else REPOSITORY / Path(given).parent
    if not folder.is_dir():
        folder = CONFIGS
    known = sorted(_shown(path) for path in folder.rglob("*.yaml"))
    raise FileNotFoundError(f"{flag} {given}: no such file. {did_you_mean(given, known)}")


def _shown(path: Path) -> str:
    path = path.absolute()
    return str(path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as err:
        raise ValueError(f"{path} is no valid YAML: {err}") from err
    if not isinstance(content, dict | None):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected KEY: VALUE lines.")
    return content or {}


def merge_yaml(cfg: CfgNode, path: Path) -> None:
    """Merge a YAML file; errors name the file."""
    _read_yaml(path)
    try:
        cfg.merge_from_file(str(path))
    except (KeyError, ValueError) as err:
        raise type(err)(f"{_shown(path)}: {err.args[0] if err.args else err}") from err


def merge_declared(cfg: CfgNode, declared: CfgNode, prefix: str = "") -> None:
    """Merge what a trainer declares: new keys are added, known ones get another default."""
    for key, value in declared.items():
        if isinstance(value, CfgNode) and isinstance(cfg.get(key), CfgNode):
            merge_declared(cfg[key], value, f"{prefix}{key}.")
        else:
            cfg[key] = value.clone() if isinstance(value, CfgNode) else value


def merge_flags(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Put the flags that were given into the config."""
    pairs = {
        "DATASET.ROOT": args.root,
        "OUTPUT_DIR": args.output_dir,
        "RESUME": args.resume,
        "DATASET.SOURCE_DOMAINS": tuple(args.source_domains or ()),
        "DATASET.TARGET_DOMAINS": tuple(args.target_domains or ()),
        "INPUT.TRANSFORMS": tuple(args.transforms or ()),
        "MODEL.BACKBONE.NAME": args.backbone,
        "MODEL.HEAD.NAME": args.head,
    }
    for key, value in pairs.items():
        if value:
            _assign(cfg, key, value)
    if args.seed >= 0:
        cfg.SEED = args.seed
    if args.skip_bad_images:
        cfg.DATALOADER.SKIP_BAD_IMAGES = True
    if args.enhanced_base:
        if "TaskRes" not in cfg.TRAINER:
            raise ValueError("--enhanced-base belongs to TaskRes; use it with --trainer TaskRes.")
        cfg.TRAINER.TaskRes.ENHANCED_BASE = args.enhanced_base


def _assign(cfg: CfgNode, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        cfg = cfg[parent]
    cfg[last] = type(cfg[last])(value)


def default_output_dir(cfg: CfgNode, *, is_evaluation: bool = False) -> Path:
    """``output/<protocol>[/<part>]/<dataset>/<Trainer>/<recipe>_<shots>shots/seed<s>``.

    With the domain left out instead of shots in lodo: ``.../<recipe>/seed<s>/te_<domain>``.
    """
    shots = cfg.DATASET.NUM_SHOTS if cfg.DATASET.NUM_SHOTS > 0 else "all"
    recipe = cfg.RUN.RECIPE or "default"
    seed = f"seed{cfg.SEED}" if cfg.SEED >= 0 else "seed_random"
    parts = ["output", *(["evaluation"] if is_evaluation else []), cfg.RUN.PROTOCOL, cfg.RUN.PART]
    parts += [cfg.RUN.DATASET, cfg.TRAINER.NAME]
    if cfg.RUN.PROTOCOL == "lodo":
        targets = re.sub(r"[^a-z0-9]+", "_", "_".join(cfg.DATASET.TARGET_DOMAINS).lower())
        parts += [recipe, seed, f"te_{targets}"]
    else:
        parts += [f"{recipe}_{shots}shots", seed]
    return Path(*(part for part in parts if part))
