"""Flags of ``train.py``: the keys that they set, and those that would do nothing.

The latter are refused with the command line, before any work.
"""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

from dassl.config.files import existing_yaml
from dassl.config.own_data import is_own
from dassl.config.recipes import read_given

logger = logging.getLogger(__name__)
FLAG_KEYS = {  # flag -> the key that it sets
    "root": "DATASET.ROOT",
    "output_dir": "OUTPUT_DIR",
    "resume": "RESUME",
    "source_domains": "DATASET.SOURCE_DOMAINS",
    "target_domains": "DATASET.TARGET_DOMAINS",
    "transforms": "INPUT.TRANSFORMS",
    "classnames": "DATASET.CLASSNAMES",
    "template": "DATASET.TEMPLATES",
    "views": "TRAIN.VIEWS",
    "precision": "TRAIN.PRECISION",
    "backbone": "MODEL.BACKBONE.NAME",
    "activation": "MODEL.BACKBONE.ACTIVATION",
    "head": "MODEL.HEAD.NAME",
}
# all flags that a pair may contradict
SAYS_THE_SAME = {
    **FLAG_KEYS,
    "seed": "SEED",
    "skip_bad_images": "DATALOADER.SKIP_BAD_IMAGES",
    "enhanced_base": "TRAINER.TaskRes.ENHANCED_BASE",
}
# flag that does nothing without another -> that other, and what to do instead
NEEDED = {
    "model_dir": (
        "eval_only",
        "Without --eval-only the run trains from the start and never reads it. Add --eval-only to "
        "test that model, or give MODEL.INIT_WEIGHTS DIR in its place to start training from it.",
    ),
    "load_epoch": (
        "model_dir",
        "It chooses among the checkpoints of --model-dir DIR: give that, too, or leave it out.",
    ),
}
# pairs of flags of which the first does nothing beside the second
EXCLUDED = {
    ("no_train", "eval_only"): "An evaluation never trains.",
    ("resume", "eval_only"): (
        "An evaluation never trains, so that there is nothing to resume. The model to test is "
        "given as --model-dir DIR."
    ),
    ("resume", "no_train"): "Nothing is trained, so that there is nothing to resume.",
}


def keys_on_the_command_line(args: argparse.Namespace) -> Iterator[str]:
    """Config keys that a command line itself gives, in pairs or flags, not in files."""
    yield from args.opts[::2]
    yield from (key for name, key in FLAG_KEYS.items() if getattr(args, name))
    if args.enhanced_base:
        yield "TRAINER.TaskRes.ENHANCED_BASE"


def check_flags(args: argparse.Namespace) -> None:
    """Refuse combinations of flags that do nothing, whatever the trainer.

    Raises:
        ValueError: naming the flags and what to do.
    """
    for name, (other, advice) in NEEDED.items():
        if _is_given(args, name) and not _is_given(args, other):
            raise ValueError(
                f"{_flag(args, name)} has no effect without --{_dashed(other)}. {advice}"
            )
    if args.root and is_own(args.dataset):
        raise ValueError(
            f"--root {args.root} has no effect with --dataset {args.dataset}, which says where the "
            "images are. Leave it out."
        )
    pairs = dict(zip(args.opts[::2], args.opts[1::2]))
    if args.trainer and pairs.get("TRAINER.NAME", args.trainer) != args.trainer:
        raise ValueError(
            f"--trainer {args.trainer} and TRAINER.NAME {pairs['TRAINER.NAME']}: give one of them."
        )
    for (name, other), reason in EXCLUDED.items():
        if _is_given(args, name) and _is_given(args, other):
            raise ValueError(
                f"{_flag(args, name)} has no effect beside --{_dashed(other)}. {reason} Leave it "
                "out."
            )


def name_repeated(args: argparse.Namespace) -> None:
    """Say which value holds where flags and KEY VALUE pairs give a key two of them."""
    values: dict[str, str] = {}
    for name, key in SAYS_THE_SAME.items():
        if _is_given(args, name):
            values[key] = str(getattr(args, name))
    for key, value in zip(args.opts[::2], args.opts[1::2]):
        if values.get(key, value) != value:
            logger.warning("%s is given twice: %s holds, %s does not.", key, value, values[key])
        values[key] = value


def check_trainer_flags(args: argparse.Namespace, trainer: type) -> None:
    """Refuse flags that a trainer declares as without effect (``unused_flags``).

    Raises:
        ValueError: naming flag, trainer and reason.
    """
    for flag, reason in getattr(trainer, "unused_flags", {}).items():
        name = flag.removeprefix("--").replace("-", "_")
        if _is_given(args, name):
            raise ValueError(
                f"{_flag(args, name)} has no effect with {trainer.__name__}: {reason}. Leave it "
                "out."
            )


def _is_given(args: argparse.Namespace, name: str) -> bool:
    value = getattr(args, name)
    if name == "seed":
        return bool(value >= 0)
    return value is not None if name == "load_epoch" else bool(value)


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _flag(args: argparse.Namespace, name: str) -> str:
    """A flag as it was given, with its value."""
    value = getattr(args, name)
    words = [] if value is True else value if isinstance(value, list) else [str(value)]
    return " ".join([f"--{_dashed(name)}", *words])


def given_files(args: argparse.Namespace) -> list[Path]:
    """Config files that the command line names; ours where it says an official name."""
    files = list(read_given(args.config_file).files)
    if args.dataset_config_file:
        files.append(existing_yaml(args.dataset_config_file, "--dataset-config-file"))
    return files
