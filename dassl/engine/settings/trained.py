"""An evaluation runs with the settings of the training that wrote its checkpoint.

What shapes the scores of a model was decided when it was trained, and its checkpoint carries that
config. Those settings hold: they replace what an evaluation's files and defaults say, a value that
its command line gives must be theirs, and the few that are meant to be varied at test time are
named in the results. A trainer declares the keys: ``shapes_scores``, ``about_one_run``, and what
``varies`` (``varies_at_test`` of engine keys). The number of shots is the training's, too, and so
is the seed unless one is given: they say which model was tested. What only a training reads is
named where it is given. Files without a config (official ones) leave the settings to the command
line.
"""

import argparse
import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yacs.config import CfgNode

from dassl.config.conditions import idle_settings, never
from dassl.config.declared import varying_names
from dassl.config.settings import flat
from dassl.config.tools import set_value
from dassl.config.yaml_files import config_of
from dassl.utils import peek_checkpoint

from ..build import TRAINER_REGISTRY
from ..state.checkpoints import errors_name, find_checkpoint
from .flag_checks import keys_on_the_command_line
from .shared_conditions import SELECTION, STORED_VIEWS, TRAINING, no_augmentation
from .unread import idle_settings_of

if TYPE_CHECKING:
    from ..base import TrainerBase

logger = logging.getLogger(__name__)
SHOTS = "DATASET.NUM_SHOTS"
UNREAD = (  # by an evaluation
    *(*TRAINING, *STORED_VIEWS, "DATALOADER.TRAIN_X", "TRAIN.ACCUMULATE", "SWAD"),
    *("STEPS.N", "STEPS.FREQ", "STEPS.MODEL_SAVE", "STEPS.CUTMIX_PROB", "STEPS.CUTMIX_BETA"),
    *("MODEL.DROPOUT", "MODEL.FREEZE_BN"),
)


def take_trained_settings(
    cfg: CfgNode, args: argparse.Namespace, trainer: "type[TrainerBase]"
) -> None:
    """Put the settings of the checkpoint that --eval-only loads into a config.

    Raises:
        ValueError: a value of the command line is another one and not meant to be varied, or the
            checkpoint is another trainer's.
    """
    writer = trainer.checkpoint_writer()
    if not args.eval_only or not args.model_dir or not writer.model_name:
        return
    trained = None
    with suppress(FileNotFoundError):  # the run itself says what is missing
        path = find_checkpoint(args.model_dir, writer.model_name, args.load_epoch)
        with errors_name(path):
            trained = config_in(peek_checkpoint(path))
    if trained is None:
        return
    given = set(keys_on_the_command_line(args))
    check_same_trainer(writer, trained, path)
    different = differences(cfg, trained, writer)
    shots = trained.get("DATASET", {}).get("NUM_SHOTS", cfg.DATASET.NUM_SHOTS)
    if shots != cfg.DATASET.NUM_SHOTS:
        different[SHOTS] = (cfg.DATASET.NUM_SHOTS, shots)
    if cfg.SEED < 0 <= trained.get("SEED", -1) and "SEED" not in given:
        different["SEED"] = (cfg.SEED, trained.SEED)
    check_settings({k: v for k, v in different.items() if k in given}, writer, path)
    held = {key: pair[1] for key, pair in different.items() if key not in given}
    for key, value in held.items():
        set_value(cfg, key, value)
    if held:
        shown = ", ".join(f"{key} {value}" for key, value in held.items())
        logger.info("Settings of the checkpoint hold: %s (%s).", shown, path)


def check_trained_settings(trainer: "TrainerBase", content: dict[str, Any], path: Path) -> None:
    """Refuse a checkpoint for a trainer that was built with other settings than those it carries.

    Raises:
        ValueError: naming every key that differs, with both values.
    """
    trained = config_in(content)
    if trained is not None:
        writer = trainer.checkpoint_writer()
        check_same_trainer(writer, trained, path)
        check_settings(differences(trainer.cfg, trained, writer), writer, path)


def check_resumable(trainer: "TrainerBase", content: dict[str, Any], path: Path) -> None:
    """Refuse to train on from a checkpoint of other settings, or of another optimizer.

    Raises:
        ValueError: naming what differs.
    """
    check_trained_settings(trainer, content, path)
    trained, name = config_in(content), trainer.cfg.OPTIM.NAME
    if trained is not None and name != trained.OPTIM.NAME:
        raise ValueError(
            f"{path} was trained with OPTIM.NAME {trained.OPTIM.NAME}, not {name}, which cannot go "
            "on from its state. Give the same one, or MODEL.INIT_WEIGHTS DIR in place of --resume, "
            "which takes the weights alone."
        )


def varied_settings(trainer: "TrainerBase") -> dict[str, dict[str, Any]]:
    """Key -> {"trained": ..., "tested": ...} of what an evaluation varies, for its results."""
    trained = config_in(trainer.loaded_checkpoint or {})
    if trained is None:
        return {}
    different = differences(trainer.cfg, trained, trainer.checkpoint_writer())
    return {key: {"trained": old, "tested": new} for key, (new, old) in different.items()}


def warn_of_training_settings(
    args: argparse.Namespace, trainer: "TrainerBase", trained: CfgNode | None
) -> None:
    """Name what a command line sets for the training that an evaluation does not do.

    Args:
        trained: the training's config, whose own values may be given again; None: unknown.
    """
    if not args.model_dir:
        return
    reason, named = "an evaluation trains nothing", idle_settings_of(trainer.cfg, type(trainer))
    chooses = trainer.labels_read(evaluates=True) & {"val", "test"}
    keys = never(UNREAD if chooses else (*UNREAD, *SELECTION), reason)
    idle = idle_settings(trainer.cfg, [keys, *no_augmentation(reason)])
    known = {} if trained is None else flat(trained)
    values, shaping = flat(trainer.cfg), trainer.checkpoint_writer().shapes_scores
    for key in dict.fromkeys(keys_on_the_command_line(args)):
        if key not in idle or key in named or key.startswith(shaping):
            continue
        if values[key] != known.get(key, ...):
            was = f"; the model was trained with {known[key]!r}" if key in known else ""
            logger.warning("%s %r has no effect: %s%s.", key, values[key], idle[key], was)


def untrained_classes(trainer: "TrainerBase") -> list[str]:
    """Names of the tested classes that the loaded checkpoint was not trained on."""
    known = (trainer.loaded_checkpoint or {}).get("classnames")
    tested = (trainer.lab2cname or {}).values()
    return [] if known is None else [name for name in tested if name not in set(known)]


def config_in(content: Any) -> CfgNode | None:
    """The config that a checkpoint's content carries; None in official files."""
    text = content.get("config") if isinstance(content, dict) else None
    return config_of(text, "The config in the checkpoint") if isinstance(text, str) else None


def differences(
    cfg: CfgNode, trained: CfgNode, writer: "type[TrainerBase]"
) -> dict[str, tuple[Any, Any]]:
    """Key -> (value here, value of the training) of the settings that shape scores.

    Keys that only one of them has belong to another version and are left alone. Sentences belong
    to a dataset: DATASET.TEMPLATES of another one do not hold.
    """
    ours, theirs = flat(cfg), flat(trained)
    is_same_set = theirs.get("DATASET.NAME") == cfg.DATASET.NAME
    found = {}
    for key, value in ours.items():
        shapes = key.startswith(writer.shapes_scores) and key != "TRAINER.NAME"
        if not shapes or _is_in(key, writer.about_one_run) or key not in theirs:
            continue
        if key == "DATASET.TEMPLATES" and not is_same_set:
            continue
        if value != theirs[key]:
            found[key] = (value, theirs[key])
    return found


def check_settings(
    different: dict[str, tuple[Any, Any]], writer: "type[TrainerBase]", path: Path
) -> None:
    """Refuse differences other than those that are meant to be varied.

    Raises:
        ValueError: naming the keys, both values, and what may be varied.
    """
    may_vary = varying_names(writer)
    refused = {k: pair for k, pair in different.items() if not _is_in(k, may_vary)}
    if refused:
        listed = "; ".join(f"{key} {old!r}, not {new!r}" for key, (new, old) in refused.items())
        varied = ", ".join(sorted(may_vary)) or "none"
        raise ValueError(
            f"{path} was trained with {listed}. The settings of a checkpoint hold: leave them out "
            f"of the command, or train with the others. Settings of {writer.__name__} that may be "
            f"varied at test time: {varied}."
        )


def check_same_trainer(writer: "type[TrainerBase]", trained: CfgNode, path: Path) -> None:
    """Refuse the checkpoint of another trainer, to which the same keys mean something else.

    Raises:
        ValueError: naming both.
    """
    name = trained.TRAINER.NAME
    if name not in TRAINER_REGISTRY.registered_names():
        return
    other = TRAINER_REGISTRY.get(name).checkpoint_writer()
    if not (issubclass(writer, other) or issubclass(other, writer)):
        raise ValueError(
            f"{path} was trained by {name}, but this run's trainer is {writer.__name__}. Use "
            f"--trainer {name}, or another --model-dir."
        )


def _is_in(key: str, names: frozenset[str]) -> bool:
    """Whether a key is among names: full keys, or last words of keys of a trainer's own node."""
    own = key.rsplit(".", 1)[-1] if key.startswith("TRAINER.") else key
    return own in names or key in names
