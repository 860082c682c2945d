"""Conditions that several trainers put on settings, see ``dassl/config/conditions.py``."""

from dataclasses import replace

from dassl.config import Condition, get_cfg_default, never
from dassl.data.transforms import READS

from ..selection import selection_rule

TRAINING = (
    "OPTIM",
    "TRAIN.CHECKPOINT_FREQ",
    "TRAIN.NUM_VIEWS",
    "DATALOADER.TRAIN_X.BATCH_SIZE",
)
SELECTION = ("TEST.SELECT_ON", "TEST.FINAL_MODEL")
STORED_VIEWS = ("TRAIN.VIEWS", "TRAIN.NUM_VIEWS")
STATISTICS = READS["normalize"]  # enter test views, too
UNREAD = [  # keys of the engine's own trainers and of files written for the original
    never(
        ("DATALOADER.TRAIN_U", "TRAIN.COUNT_ITER"),
        "it is for trainers that read unlabelled images, which this one does not",
    ),
    never("MODEL.HEAD", "it is for the engine's own networks"),
    never("DATALOADER.RETURN_IMG0", "this trainer reads transformed images only"),
]
NOTHING_TRAINED = Condition(
    ("OPTIM",),
    lambda cfg: cfg.OPTIM.MAX_EPOCH > 0,
    "nothing is trained, OPTIM.MAX_EPOCH is {OPTIM.MAX_EPOCH}",
)


def no_epochs() -> Condition:
    """The optimiser and its schedule need an epoch; MAX_EPOCH itself says so."""
    keys = (f"OPTIM.{key}" for key in get_cfg_default().OPTIM if key != "MAX_EPOCH")
    return replace(NOTHING_TRAINED, keys=tuple(keys))


def no_augmentation(otherwise: str) -> list[Condition]:
    """Only test views are read: of all transforms instance_norm alone enters them."""
    keys = {key for keys in READS.values() for key in keys if key not in STATISTICS}
    return [
        Condition(
            ("INPUT.TRANSFORMS",), lambda cfg: "instance_norm" in cfg.INPUT.TRANSFORMS, otherwise
        ),
        never((f"INPUT.{key}" for key in sorted(keys)), otherwise),
    ]


def searched(*keys: str) -> Condition:
    """Keys of a search on labelled images, which the rule ``last`` excludes."""
    return Condition(
        keys,
        lambda cfg: selection_rule(cfg) != "last",
        "nothing is searched on labels, TEST.SELECT_ON is {TEST.SELECT_ON}",
    )


def not_searched(*keys: str) -> Condition:
    """Keys that a search on labelled images replaces."""
    return Condition(
        keys,
        lambda cfg: selection_rule(cfg) == "last",
        "the search on labels chooses it, TEST.SELECT_ON is {TEST.SELECT_ON}",
    )


def no_templates(otherwise: str = "its prompts are learned, no template enters") -> Condition:
    """DATASET.TEMPLATES is not read."""
    return never("DATASET.TEMPLATES", otherwise)
