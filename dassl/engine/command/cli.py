"""The command line of ``train.py`` and the config that it makes (CoOp's flags, and a few more)."""

import argparse
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from yacs.config import CfgNode

from dassl.config import check_settings, get_cfg_default
from dassl.config.files import CONFIGS, existing_yaml, find_yaml, read_layers
from dassl.config.own_data import OwnSet, dataset_name, is_own, not_a_dataset, own_set
from dassl.config.pixels import OPEN, close, leave_open
from dassl.config.ranges import PRECISIONS
from dassl.config.recipes import Recipe, existing_recipe, read_given, resolve, stated_value
from dassl.config.tools import set_value
from dassl.flags import FlagParser, add_class_flags
from dassl.utils import did_you_mean

from ..build import TRAINER_REGISTRY
from ..settings.flag_checks import FLAG_KEYS, check_flags, check_trainer_flags, name_repeated

if TYPE_CHECKING:
    from ..settings.undeclared import DeclaredKeys, OpenKeys

logger = logging.getLogger(__name__)
DEFAULT_DATASET = "toy_objects"
DEFAULT_PROTOCOL = "fewshot"
TOY_BACKBONES = ("toy/", "toy:", "clip:toy/")
MANY_SHOTS = 16  # whose recipe serves a training on all images
LISTS = ("source_domains", "target_domains", "transforms")  # flags of one or more words
OFFICIAL_WORKERS = 8  # of the recipes
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "200000 100000": microseconds of each period
KEY = re.compile(r"[A-Z][A-Z0-9_]+\.[A-Z]")  # how a config key begins


def make_parser() -> FlagParser:
    """Every flag of ``train.py``."""
    parser = FlagParser(
        prog="train.py",
        description="Train and test one method on one dataset with one seed.",
        epilog="Further words are KEY VALUE pairs of the config, as OPTIM.MAX_EPOCH 10.",
    )
    add = parser.add_argument
    add("--root", default="", help="folder that holds the datasets (embedded toy sets need none)")
    add("--output-dir", default="", help="folder of the run (default: a tree under output/)")
    add("--resume", default="", help="folder of a run to resume from")
    add("--seed", type=int, default=-1, help="random seed; 0 is one, a negative one is random")
    add("--source-domains", nargs="+", help="source domains")
    add("--target-domains", nargs="+", help="target domains")
    add("--transforms", nargs="+", help="training transforms, in place of the recipe's")
    add(
        "--dataset",
        default="",
        metavar="NAME",
        help="short for configs/datasets/NAME.yaml; images of your own: folder:PATH[=NAME] or "
        "csv:FILE[=NAME] (docs/own_data.md)",
    )
    add_class_flags(parser)
    add(
        "--views",
        default="",
        choices=("fresh", "bank"),
        help="of training images: new ones in every epoch, or 10 stored ones (much cheaper; the "
        "default for images of your own)",
    )
    add(
        "--precision",
        default="",
        choices=PRECISIONS,
        help="what a GPU computes in, in every stage (default: a PREC of fp16 or amp, "
        "else what the official code does, or tf32)",
    )
    add("--dataset-config-file", default="", metavar="YAML", help="dataset config")
    add(
        "--config-file",
        action="append",
        default=[],
        metavar="YAML",
        help="instead of any recipe; repeatable",
    )
    add("--recipe", default="", metavar="NAME", help="instead of the one that recipes.yaml chooses")
    add("--variant", default="", help="setting of the method that recipes.yaml knows")
    add("--no-recipe", action="store_true", help="the engine's defaults instead of any recipe")
    add("--trainer", default="", help="name of the trainer")
    add("--backbone", default="", help="name of the backbone")
    add(
        "--activation",
        default="",
        choices=("quick_gelu", "gelu"),
        help="of a backbone's weights file that does not tell (a warning says so)",
    )
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
    add(
        "--list",
        default="",
        metavar="WHAT[:NAME]",
        help="print trainers, datasets, recipes or backbones, or one as recipes:TaskRes, and stop",
    )
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys")
    return parser


def check_names(args: argparse.Namespace) -> tuple[str, Path]:
    """Refuse what is wrong with a command line as it stands, before anything slow is imported.

    Returns:
        the trainer's name and the dataset config.

    Raises:
        ValueError: an unknown trainer or dataset, a flag without effect, a malformed pair.
        FileNotFoundError: a YAML or recipe that is not there.
    """
    free_pairs(args)
    check_pairs(args.opts)
    check_flags(args)
    dataset_yaml = find_dataset_yaml(args)
    trainer = find_trainer(args, filter(None, map(find_yaml, args.config_file)))
    if args.recipe and not (args.config_file or args.no_recipe):
        existing_recipe(trainer, args.recipe)
    return trainer, dataset_yaml


def make_config(args: argparse.Namespace) -> CfgNode:
    """The frozen config of a run.

    Order: engine defaults, the trainer's ``default_cfg()``, dataset YAML, recipe (YAMLs, then its
    options), flags, KEY VALUE pairs; in an evaluation the settings of the checkpoint.

    Raises:
        ValueError: an unknown trainer, dataset or value, or a flag without effect.
        KeyError: an unknown config key.
        FileNotFoundError: a YAML that is not there.
    """
    name, dataset_yaml = check_names(args)
    trainer = TRAINER_REGISTRY.get(name)
    from ..settings.trained import take_trained_settings
    from ..settings.undeclared import keys_of
    from ..state.resume import root_is_the_set
    from ..updating.numerics import check_precision  # with the trainer, these load torch

    cfg = get_cfg_default()
    leave_open(cfg)
    check_trainer_flags(args, trainer)
    own = own_set(args.dataset) if is_own(args.dataset) else None
    recipe = find_recipe(args, trainer, dataset_yaml.stem)
    keys = keys_of(trainer, cfg, args)
    cfg.RUN.DATASET = own.name if own else dataset_yaml.stem
    name = recipe.name if args.config_file else recipe.label
    cfg.RUN.RECIPE = name if recipe.files else ""
    for path in (dataset_yaml, *recipe.files):
        merge_yaml(cfg, path, keys)
    keys.take_pairs(recipe.opts)
    cfg.merge_from_list(list(recipe.opts))
    merge_flags(cfg, args, keys)
    name_repeated(args)
    keys.take_pairs(args.opts)
    cfg.merge_from_list(args.opts)
    if own:
        read_from(cfg, own)
    do_without(cfg, args, trainer)
    warn_of_toy_backbone(cfg, dataset_yaml.stem)
    take_trained_settings(cfg, args, trainer)
    check_settings(cfg, trainer)
    check_precision(cfg, trainer)
    is_given = "DATALOADER.NUM_WORKERS" in args.opts[::2]
    cfg.DATALOADER.NUM_WORKERS = number_of_workers(cfg.DATALOADER, is_given=is_given)
    cfg.TRAINER.NAME = trainer.__name__
    if root_is_the_set(cfg.DATASET.NAME):
        cfg.DATASET.ROOT = str(Path(cfg.DATASET.ROOT).expanduser().resolve())
    followed = getattr(trainer, "follows_backbone", ())
    images = get_cfg_default().INPUT
    close(cfg, {key: images[key] for key in OPEN if key not in followed})
    if not args.output_dir and cfg.OUTPUT_DIR == get_cfg_default().OUTPUT_DIR:
        cfg.OUTPUT_DIR = str(default_output_dir(cfg, is_evaluation=args.eval_only))
    cfg.freeze()
    return cfg


def read_from(cfg: CfgNode, own: OwnSet) -> None:
    """Let a config name a set of one's own as its dataset."""
    cfg.DATASET.NAME = "OwnDomains" if cfg.DATASET.TARGET_DOMAINS else "OwnImages"
    cfg.DATASET.ROOT = str(own.root)
    cfg.DATASET.TABLE = str(own.table or "")
    if cfg.DATASET.CLASSNAMES:
        cfg.DATASET.CLASSNAMES = str(Path(cfg.DATASET.CLASSNAMES).expanduser().absolute())


def do_without(cfg: CfgNode, args: argparse.Namespace, trainer: type) -> None:
    """Leave out what a method's recipe reads beside images and a set of one's own does not have.

    Settings that the command line or a file of the user's gives are kept.
    """
    from ..settings.unread import given_keys
    from ..state.resume import root_is_the_set

    ask = getattr(trainer, "without_extras", None)
    if ask is None or not root_is_the_set(cfg.DATASET.NAME):
        return
    given = set(given_keys(args))
    for extra in ask(cfg):
        if not given & {extra.key, *extra.given_by}:
            set_value(cfg, extra.key, extra.value)
            logger.warning("%s", extra.said)


def warn_of_toy_backbone(cfg: CfgNode, dataset: str) -> None:
    """Say that a toy backbone has never seen a photograph."""
    if cfg.MODEL.BACKBONE.NAME.startswith(TOY_BACKBONES) and not dataset.startswith("toy_"):
        logger.warning(
            "The backbone %s was trained on drawings of the toy world: its accuracies on %s say "
            "nothing about the method. For photographs: --backbone ViT-B/16",
            cfg.MODEL.BACKBONE.NAME,
            cfg.RUN.DATASET,
        )


def available_cores() -> int:
    """CPU cores that this process may use: by affinity, and by a container's quota of time."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text(encoding="ascii").split()
    except (OSError, ValueError):  # not Linux, or without control groups of version 2
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def number_of_workers(node: CfgNode, *, is_given: bool) -> int:
    """NUM_WORKERS of a machine: no more than cores, unless a pair gives the number.

    Where each worker has a generator of its own, numbers depend on how many there are: then they
    are as many on every machine.
    """
    wanted: int = node.NUM_WORKERS
    if node.SEEDING != "sample":
        return OFFICIAL_WORKERS if wanted < 0 else wanted
    cores = available_cores()
    return cores if wanted < 0 else wanted if is_given else min(wanted, cores)


def check_pairs(words: Sequence[str]) -> None:
    """Refuse what is not a KEY VALUE pair: a flag among the pairs, or KEY=VALUE.

    Raises:
        ValueError: saying how to write it.
    """
    for place, word in enumerate(words):
        if word.startswith("--"):
            raise ValueError(
                f"{word} must come before the KEY VALUE pairs ({' '.join(words[:2])})."
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


def find_trainer(args: argparse.Namespace, recipes: Iterable[Path]) -> str:
    """The trainer's name: --trainer, else TRAINER.NAME of the pairs or the last recipe.

    Raises:
        ValueError: if there is none, or no trainer has it.
        ImportError: if the file that defines it cannot be imported.
    """
    known = sorted(TRAINER_REGISTRY.registered_names())
    name = args.trainer
    pairs = dict(zip(args.opts[::2], args.opts[1::2]))
    name = name or pairs.get("TRAINER.NAME", "")
    for path in recipes:
        name = name or str(stated_value(path, "TRAINER.NAME") or "")
    if not name:
        raise ValueError(f"No trainer is given. Use --trainer NAME. Known: {', '.join(known)}.")
    TRAINER_REGISTRY.raise_if_broken(name)
    if name not in known:
        raise ValueError(f"No trainer is called {name!r}. {did_you_mean(name, known)}")
    return name


def find_dataset_yaml(args: argparse.Namespace) -> Path:
    """The dataset config: --dataset-config-file, --dataset, or the embedded default.

    Raises:
        ValueError: both are given, or no config has the name.
        FileNotFoundError: no such file, or this installation lacks its configs.
    """
    if args.dataset_config_file and args.dataset:
        raise ValueError("Give --dataset or --dataset-config-file, not both.")
    if args.dataset_config_file:
        return existing_yaml(args.dataset_config_file, "--dataset-config-file")
    name = args.dataset
    if is_own(name):
        own_set(name)  # is it there?
        is_split = args.target_domains or "DATASET.TARGET_DOMAINS" in args.opts[::2]
        return CONFIGS / "datasets" / ("domain_folder.yaml" if is_split else "class_folder.yaml")
    if not name:
        name = DEFAULT_DATASET
        logger.info("No dataset is given: using the embedded %s (--dataset NAME).", name)
    path = CONFIGS / "datasets" / f"{name}.yaml"
    if not CONFIGS.is_dir():
        raise FileNotFoundError(
            f"There is no {CONFIGS}, although a clone and an installed package both hold it: this "
            "installation is incomplete. Install again, or name a file: --dataset-config-file YAML."
        )
    if not path.is_file():
        known = sorted(p.stem for p in (CONFIGS / "datasets").glob("*.yaml"))
        raise ValueError(f"--dataset: {not_a_dataset(name, known)}")
    return path


def find_recipe(args: argparse.Namespace, trainer: type, dataset: str) -> Recipe:
    """The recipe of a run, as the scripts find it; logs which one it is.

    Raises:
        ValueError: contradicting flags, or no rule says which recipe.
        FileNotFoundError: no such recipe or file.
    """
    name = trainer.__name__
    if args.no_recipe:
        recipe = _given_alone(args)
    else:
        recipe = _look_up(args, trainer, dataset)
    for note in recipe.notes:
        logger.info("%s", note)
    if not recipe.files:
        why = "No recipe" if args.no_recipe else f"{name} has no recipe"
        own = declared_engine_keys(trainer)
        but = f" (but {', '.join(own)}: those of the trainer)" if own else ""
        logger.info("%s: settings are the engine's defaults%s.", why, but)
    elif not args.config_file:
        words = recipe.in_words()
        on = dataset_name(args.dataset) if is_own(args.dataset) else dataset
        logger.info("Recipe of %s on %s: %s (--no-recipe turns it off).", name, on, words)
    return recipe


def _given_alone(args: argparse.Namespace) -> Recipe:
    """What --no-recipe leaves: the given files as they are, if any."""
    for flag in ("recipe", "variant"):
        if getattr(args, flag):
            raise ValueError(f"--no-recipe and --{flag} {getattr(args, flag)}: give one of them.")
    return read_given(args.config_file)


def _look_up(args: argparse.Namespace, trainer: type, dataset: str) -> Recipe:
    pairs = dict(zip(args.opts[::2], args.opts[1::2]))
    shots = pairs.get("DATASET.NUM_SHOTS", "")
    declared = getattr(trainer, "default_cfg", CfgNode)().get("RUN", {})
    return resolve(
        trainer.__name__,
        dataset,
        shots=int(shots) if shots.isdigit() and int(shots) else MANY_SHOTS,
        protocol=pairs.get("RUN.PROTOCOL") or declared.get("PROTOCOL") or DEFAULT_PROTOCOL,
        backbone=args.backbone or pairs.get("MODEL.BACKBONE.NAME"),
        recipe=args.recipe or None,
        variant=args.variant,
        config_files=args.config_file,
    )


def declared_engine_keys(trainer: type) -> list[str]:
    """The engine's keys for which a trainer brings a default of its own."""
    declared = getattr(trainer, "default_cfg", CfgNode)()
    return list(_shared_keys(declared, get_cfg_default()))


def _shared_keys(ours: CfgNode, engine: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in ours.items():
        if isinstance(value, CfgNode) and isinstance(engine.get(key), CfgNode):
            yield from _shared_keys(value, engine[key], f"{prefix}{key}.")
        elif key in engine:
            yield prefix + key


def merge_yaml(cfg: CfgNode, path: Path, keys: "DeclaredKeys | OpenKeys") -> None:
    """Merge a config and its bases for a trainer with these keys; errors name the file at fault."""
    for layer in read_layers(path):
        content = keys.settle(CfgNode(layer.content), layer.where)
        try:
            cfg.merge_from_other_cfg(content)
        except (KeyError, ValueError) as err:
            raise type(err)(f"{layer.where}: {err.args[0] if err.args else err}") from err


def merge_flags(cfg: CfgNode, args: argparse.Namespace, keys: "DeclaredKeys | OpenKeys") -> None:
    """Put the flags that were given into the config."""
    for name, key in FLAG_KEYS.items():
        if value := getattr(args, name):
            set_value(cfg, key, value)
    if args.seed >= 0:
        cfg.SEED = args.seed
    if args.skip_bad_images:
        cfg.DATALOADER.SKIP_BAD_IMAGES = True
    if args.enhanced_base:
        keys.offer("TRAINER.TaskRes.ENHANCED_BASE", args.enhanced_base)
        if "TaskRes" not in cfg.TRAINER:
            raise ValueError("--enhanced-base belongs to TaskRes; use it with --trainer TaskRes.")
        cfg.TRAINER.TaskRes.ENHANCED_BASE = args.enhanced_base


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
