"""Base of the step-based trainers that have a vision-language teacher."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from clip import fetch_weights
from dassl.config import (
    Condition,
    Settings,
    above,
    at_least,
    between,
    one_of,
    only_if,
    setting,
)
from dassl.engine.needed import NeededFile
from dassl.engine.steps.settings import (
    FIRST_SAVED,
    IN_SWAD,
    ONE_STAGE,
    RESTART,
    STEP_DEFAULTS,
)
from dassl.engine.steps.trainer import StepTrainer
from dassl.modeling.heads import TextHead
from dassl.optim.swad import RESET_RULES
from dassl.utils import ranks

from .build import BLACK_BOXES, NORMS, build_teacher
from .teacher import (
    PROMPT_STYLES,
    REPLACED_STYLES,
    class_embeddings,
    prompt_names,
    run_templates,
)

JOURNAL = "resume.queries"  # counts what is asked of the teacher as it happens


@dataclass(frozen=True)
class VL2VSettings(Settings, section="TRAINER.VL2V"):
    """The teacher, and what is learned from it."""

    teacher: str = setting(
        "ViT-B/16",
        "a CLIP backbone | http(s)://..., an endpoint | python:<module>:<function>",
        varies=True,
    )
    scale: float = setting(100.0, "logit scale of an endpoint that does not tell its own", above(0))
    lambda_: float = setting(0.5, "lam: share of the image term", between(0, 1))
    prompt_style: int = setting(
        2, "sentences of a class; DATASET.TEMPLATES replace those of 2, 6", one_of(*PROMPT_STYLES)
    )


@dataclass(frozen=True)
class StageSaves(Settings, section="TRAINER.VL2V.MODEL_SAVE"):
    """STEPS.MODEL_SAVE per stage."""

    align: int = setting(100, FIRST_SAVED, at_least(0))
    distill: int = setting(100, FIRST_SAVED, at_least(0))


@dataclass(frozen=True)
class StageRestarts(Settings, section="SWAD.RESET"):
    """SWAD.RESET per stage."""

    align: str = setting("cumulative", RESTART, one_of(*RESET_RULES), read_if=IN_SWAD)
    distill: str = setting("cumulative", RESTART, one_of(*RESET_RULES), read_if=IN_SWAD)


@dataclass(frozen=True)
class TeacherInput(Settings, section="INPUT"):
    """What the teacher sees."""

    teacher_norm: str = setting(
        "imagenet", "imagenet: the student's images | clip: CLIP's statistics", one_of(*NORMS)
    )


def distillation_losses(
    embeddings: Tensor, image_targets: Tensor, text_targets: Tensor, *, weight: float
) -> dict[str, Tensor]:
    """L = lam (-mean cos(p, F_I(x))) + (1 - lam) (-mean cos(p, t_y)).

    Args:
        embeddings: p (B, D), any norm.
        image_targets: F_I(x) (B, D), any norm.
        text_targets: t_y (B, D), any norm.
        weight: lam in [0, 1].

    Source: VL2V-ADiP, CVPR 2024.
    """
    image = -F.cosine_similarity(embeddings, image_targets, dim=-1).mean()
    text = -F.cosine_similarity(embeddings, text_targets, dim=-1).mean()
    return {
        "loss": weight * image + (1.0 - weight) * text,
        "loss_img": image.detach(),
        "loss_txt": text.detach(),
    }


class DistillTrainer(StepTrainer):
    """A step-based trainer with a teacher and a head made of its class texts.

    Attributes:
        teacher: frozen, counts its queries.
        class_texts: (C, D) unit rows.
    """

    takes_networks = ("student", "teacher")
    declares: tuple[type[Settings], ...] = (VL2VSettings, TeacherInput, *ONE_STAGE)
    defaults = {**STEP_DEFAULTS, "SWAD.ENABLED": True, "SWAD.RESET": "cumulative"}
    own_conditions: Sequence[Condition] = (
        Condition(
            ("TRAINER.VL2V.SCALE",),
            lambda cfg: cfg.TRAINER.VL2V.TEACHER.startswith(("http://", "https://")),
            "the teacher {TRAINER.VL2V.TEACHER} tells its own scale",
        ),
        only_if("DATASET.TEMPLATES", "TRAINER.VL2V.PROMPT_STYLE", *REPLACED_STYLES),
    )

    @classmethod
    def check_cfg(cls, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        run_templates(cfg, VL2VSettings.of(cfg).prompt_style)

    @staticmethod
    def needed_files(cfg: CfgNode) -> list[NeededFile]:
        """The student's weights and, of a local CLIP, the teacher's."""
        teacher = VL2VSettings.of(cfg).teacher
        needed = StepTrainer.needed_files(cfg)
        if not teacher.startswith(BLACK_BOXES):
            read = partial(fetch_weights, teacher)
            needed.append(NeededFile(f"Teacher {teacher}", read, may_download=True))
        return needed

    def build_model(self) -> None:
        """Build the teacher and the class texts first."""
        cfg, settings = self.cfg, VL2VSettings.of(self.cfg)
        self.teacher = self.given_networks.get("teacher") or build_teacher(
            settings.teacher,
            device=self.device,
            scale=settings.scale,
            norm=cfg.INPUT.TEACHER_NORM,
            mean=cfg.INPUT.PIXEL_MEAN,
            std=cfg.INPUT.PIXEL_STD,
        )
        names = prompt_names(settings.prompt_style, self.classnames)
        templates = run_templates(cfg, settings.prompt_style)
        texts = ranks.from_writer(  # asked for once, whatever the number of processes
            lambda: class_embeddings(self.teacher, names, templates, keep=True).cpu()
        )
        self.class_texts = texts.to(self.device)
        super().build_model()

    def build_head(self, width: int) -> nn.Module:
        """The text head; frozen unless it is among ``trained_parts``."""
        dimension = self.class_texts.shape[1]
        if width != dimension:
            raise ValueError(
                f"The student gives {width} numbers per image and the teacher {self.teacher.name} "
                f"{dimension}: without a projection they must be equal. Choose a student that is "
                "the teacher's own image encoder."
            )
        return TextHead(self.class_texts, self.teacher.scale)

    @classmethod
    def first_saved(cls, cfg: CfgNode) -> tuple[str, int]:
        node, key = cfg.TRAINER.VL2V, cls.stage.upper()
        if "MODEL_SAVE" not in node:
            return super().first_saved(cfg)
        return f"TRAINER.VL2V.MODEL_SAVE.{key}", node.MODEL_SAVE[key]

    @property
    def swad_reset(self) -> str:
        reset = self.cfg.SWAD.RESET
        return reset[self.stage.upper()] if isinstance(reset, CfgNode) else reset

    def checkpoint_meta(self) -> dict:
        settings = VL2VSettings.of(self.cfg)
        return {
            **super().checkpoint_meta(),
            "teacher": settings.teacher,
            "prompt_style": settings.prompt_style,
            "templates": list(run_templates(self.cfg, settings.prompt_style)),
            "logit_scale": self.teacher.scale,
        }

    def before_train(self) -> None:
        super().before_train()  # all checks are passed: from here on the folder holds a run
        if ranks.is_writer():  # its counts are those of all processes
            self.teacher.queries.keep_in(Path(self.output_dir) / JOURNAL)

    def extra_state(self) -> dict:
        return {**super().extra_state(), "queries": self.teacher.queries.state_dict()}

    def load_extra_state(self, state: dict) -> None:
        super().load_extra_state(state)
        self.teacher.queries.load_state_dict(state["queries"])

    def remove_resume_file(self) -> None:
        super().remove_resume_file()
        self.teacher.queries.remove_journal()

    def record_results(self) -> None:
        super().record_results()
        self.add_result("teacher queries", self.teacher.queries.as_dict())
