"""What a step-based run reads and refuses, from its config and its dataset alone."""

from functools import partial

from yacs.config import CfgNode

from dassl.config import Condition, never, only_if
from dassl.data.datasets import DatasetBase
from dassl.engine import TrainerX
from dassl.engine.needed import NeededFile
from dassl.engine.shared_conditions import STORED_VIEWS, UNREAD
from dassl.modeling.heads import build_student
from dassl.modeling.networks import full_name

DEFAULT_STEPS, DEFAULT_FREQ = 5001, 200  # of datasets that do not say their own


class StepChecks(TrainerX):
    """Part of ``StepTrainer``; a staged trainer asks all of its stages before the first starts."""

    feeds_next_stage = False  # a later stage starts from ``best``

    @classmethod
    def conditions(cls) -> list[Condition]:
        return [
            only_if(
                ("MODEL.BACKBONE.PRETRAINED", "MODEL.BACKBONE.WEIGHTS"), "MODEL.INIT_WEIGHTS", ""
            ),
            only_if("MODEL.BACKBONE.PRETRAINED", "MODEL.BACKBONE.WEIGHTS", ""),
            never("MODEL.BACKBONE.ACTIVATION", "it is for a backbone with a text tower"),
            never("OPTIM.MAX_EPOCH", "the length of the run is STEPS.N"),
            never("OPTIM.STAGED_LR", "its parameter groups are its own"),
            never((*STORED_VIEWS, "TRAIN.TEXT_CHUNK"), "it has no frozen CLIP that encodes ahead"),
            never("TRAIN.CHECKPOINT_FREQ", "it keeps the best and the SWAD weights, no epochs"),
            never(
                ("DATALOADER.SEEDING", "DATALOADER.TEST.SAMPLER"),
                "training images are drawn step by step, evaluation images have a fixed order",
            ),
            *UNREAD,
            *super().conditions(),
        ]

    @classmethod
    def check_cfg(cls, cfg: CfgNode) -> None:
        """Refuse settings that cannot work.

        Raises:
            ValueError: naming the key, its value and what is allowed.
        """
        if cfg.MODEL.BACKBONE.NAME:  # else the student is given
            full_name(cfg.MODEL.BACKBONE.NAME)
        cls._check_schedule(cfg)
        if "normalize" not in cfg.INPUT.TRANSFORMS:
            raise ValueError(
                f"INPUT.TRANSFORMS is {list(cfg.INPUT.TRANSFORMS)}, without normalize: evaluation "
                "and teacher take normalised images. Add it."
            )
        if cfg.INPUT.RESIZE != "squash":
            raise ValueError(
                f'INPUT.RESIZE is "{cfg.INPUT.RESIZE}", but the protocol of {cls.__name__} '
                'evaluates on whole images. Leave it at "squash".'
            )
        for key, value, only in (
            ("DATALOADER.TRAIN_X.SAMPLER", cfg.DATALOADER.TRAIN_X.SAMPLER, "RandomSampler"),
            ("DATALOADER.K_TRANSFORMS", cfg.DATALOADER.K_TRANSFORMS, 1),
            ("INPUT.NO_TRANSFORM", cfg.INPUT.NO_TRANSFORM, False),
        ):
            if value != only:
                raise ValueError(
                    f"{key} is {value}, but {cls.__name__} draws images of every source "
                    f"domain at random, one view of each. Leave it at {only}."
                )
        if cfg.TEST.SELECT_ON != "source_val":
            raise ValueError(
                f"TEST.SELECT_ON is {cfg.TEST.SELECT_ON}, but {cls.__name__} selects on "
                "held-out images of the source domains only. Leave it out, or set it to source_val."
            )

    @staticmethod
    def needed_files(cfg: CfgNode) -> list[NeededFile]:
        """The student's weights."""
        node = cfg.MODEL.BACKBONE
        name = f"Student {full_name(node.NAME)}" + (f" in {node.WEIGHTS}" if node.WEIGHTS else "")
        read = partial(build_student, node.NAME, pretrained=node.PRETRAINED, weights=node.WEIGHTS)
        return [NeededFile(name, read, may_download=node.PRETRAINED and not node.WEIGHTS)]

    @classmethod
    def _check_schedule(cls, cfg: CfgNode) -> None:
        if cfg.OPTIM.STEP_PER != "epoch":
            raise ValueError(
                f"OPTIM.STEP_PER is {cfg.OPTIM.STEP_PER}, but {cls.__name__} moves its "
                "learning rate at evaluations (STEPS.FREQ). Leave it at epoch."
            )

    @classmethod
    def first_saved(cls, cfg: CfgNode) -> tuple[str, int]:
        """Key and value of the first step that may become the best checkpoint."""
        return "STEPS.MODEL_SAVE", cfg.STEPS.MODEL_SAVE

    @property
    def model_save(self) -> int:
        """First step that may become the best checkpoint."""
        return self.first_saved(self.cfg)[1]

    @classmethod
    def check_feeds_next_stage(cls, cfg: CfgNode) -> None:
        """ValueError if nothing would be saved for the stage that starts from this one."""
        key, first = cls.first_saved(cfg)
        if first < 1:
            raise ValueError(
                f"{key} is {first}, so that no checkpoint would be saved, but the next stage "
                "starts from one. Give a step of at least 1."
            )

    @classmethod
    def count_steps(cls, cfg: CfgNode, dataset: DatasetBase) -> tuple[int, int]:
        """(steps between evaluations, evaluations), the dataset's where the config names none.

        The last step is an evaluation.
        """
        node = cfg.STEPS
        freq = node.FREQ or getattr(dataset, "steps_per_evaluation", DEFAULT_FREQ)
        steps = node.N or getattr(dataset, "steps", DEFAULT_STEPS)
        return freq, steps // freq + 1

    @classmethod
    def check_training(cls, cfg: CfgNode, dataset: DatasetBase) -> None:
        """ValueError if training would end before anything may be saved."""
        freq, evaluations = cls.count_steps(cfg, dataset)
        last = (evaluations - 1) * freq
        key, first = cls.first_saved(cfg)
        if first > last and (cls.feeds_next_stage or not cfg.SWAD.ENABLED):
            raise ValueError(
                f"{key} is {first}, but the last step is {last}: no checkpoint would be saved. "
                f"Lower {key}, or train longer (STEPS.N)."
            )
