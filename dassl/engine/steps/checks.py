"""What a step-based run refuses, from its config and its dataset alone."""

from collections.abc import Sequence

from yacs.config import CfgNode

from dassl.config import Condition, never, only_if
from dassl.data.datasets import DatasetBase
from dassl.engine.settings.shared_conditions import STORED_VIEWS, UNREAD
from dassl.modeling.networks import full_name
from dassl.utils import ranks

DEFAULT_STEPS, DEFAULT_FREQ = 5001, 200  # of datasets that do not say their own
CONDITIONS: Sequence[Condition] = [
    only_if(("MODEL.BACKBONE.PRETRAINED", "MODEL.BACKBONE.WEIGHTS"), "MODEL.INIT_WEIGHTS", ""),
    only_if("MODEL.BACKBONE.PRETRAINED", "MODEL.BACKBONE.WEIGHTS", ""),
    never("MODEL.BACKBONE.ACTIVATION", "name it in the path: clip:<path>@gelu"),
    never("OPTIM.MAX_EPOCH", "the length of the run is STEPS.N"),
    never("OPTIM.STAGED_LR", "its parameter groups are its own"),
    never((*STORED_VIEWS, "TRAIN.TEXT_CHUNK"), "it has no frozen CLIP that encodes ahead"),
    never("TRAIN.CHECKPOINT_FREQ", "it keeps the best and the SWAD weights, no epochs"),
    never(
        ("DATALOADER.SEEDING", "DATALOADER.TEST.SAMPLER"),
        "training images are drawn step by step, evaluation images have a fixed order",
    ),
    *UNREAD,
]


def refuse_settings(cfg: CfgNode, trainer: str) -> None:
    """Refuse settings that cannot work in a step-based run of the named trainer.

    Raises:
        ValueError: naming the key, its value and what is allowed.
    """
    if cfg.MODEL.BACKBONE.NAME:  # else the student is given
        full_name(cfg.MODEL.BACKBONE.NAME)
    if cfg.OPTIM.STEP_PER != "epoch":
        raise ValueError(
            f"OPTIM.STEP_PER is {cfg.OPTIM.STEP_PER}, but {trainer} moves its "
            "learning rate at evaluations (STEPS.FREQ). Leave it at epoch."
        )
    is_cut = cfg.TRAIN.ACCUMULATE > 1 or ranks.launched() > 1
    if is_cut and cfg.STEPS.CUTMIX_BETA > 0 and cfg.STEPS.CUTMIX_PROB > 0:
        raise ValueError(
            "STEPS.CUTMIX_BETA mixes the images of a whole batch, and batches are cut here "
            f"(TRAIN.ACCUMULATE {cfg.TRAIN.ACCUMULATE}, {ranks.launched()} processes). Set it to "
            "0, or leave TRAIN.ACCUMULATE at 1 and start one process."
        )
    if "normalize" not in cfg.INPUT.TRANSFORMS:
        raise ValueError(
            f"INPUT.TRANSFORMS is {list(cfg.INPUT.TRANSFORMS)}, without normalize: evaluation "
            "and teacher take normalised images. Add it."
        )
    if cfg.INPUT.RESIZE != "squash":
        raise ValueError(
            f'INPUT.RESIZE is "{cfg.INPUT.RESIZE}", but the protocol of {trainer} '
            'evaluates on whole images. Leave it at "squash".'
        )
    for key, value, only in (
        ("DATALOADER.TRAIN_X.SAMPLER", cfg.DATALOADER.TRAIN_X.SAMPLER, "RandomSampler"),
        ("DATALOADER.K_TRANSFORMS", cfg.DATALOADER.K_TRANSFORMS, 1),
        ("INPUT.NO_TRANSFORM", cfg.INPUT.NO_TRANSFORM, False),
    ):
        if value != only:
            raise ValueError(
                f"{key} is {value}, but {trainer} draws images of every source "
                f"domain at random, one view of each. Leave it at {only}."
            )
    if cfg.TEST.SELECT_ON != "source_val":
        raise ValueError(
            f"TEST.SELECT_ON is {cfg.TEST.SELECT_ON}, but {trainer} selects on "
            "held-out images of the source domains only. Leave it out, or set it to source_val."
        )


def count_steps(cfg: CfgNode, dataset: DatasetBase | type[DatasetBase]) -> tuple[int, int]:
    """(steps between evaluations, evaluations), the dataset's where the config names none.

    The last step is an evaluation.
    """
    node = cfg.STEPS
    freq = node.FREQ or getattr(dataset, "steps_per_evaluation", DEFAULT_FREQ)
    steps = node.N or getattr(dataset, "steps", DEFAULT_STEPS)
    return freq, steps // freq + 1


def refuse_unsaved(
    cfg: CfgNode, dataset: DatasetBase | type[DatasetBase], key: str, first: int
) -> None:
    """ValueError if training ends before step ``first`` (the value of ``key``) may be saved."""
    freq, evaluations = count_steps(cfg, dataset)
    last = (evaluations - 1) * freq
    if first > last:
        raise ValueError(
            f"{key} is {first}, but the last step is {last}: no checkpoint would be saved. "
            f"Lower {key}, or train longer (STEPS.N)."
        )
