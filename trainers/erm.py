"""Empirical risk minimisation, linear probing, and probing then fine-tuning.

Gulrajani, Lopez-Paz: "In Search of Lost Domain Generalization", ICLR 2021, arXiv 2007.01434 (ERM);
Kumar et al.: "Fine-Tuning can Distort Pretrained Features", ICLR 2022, arXiv 2202.10054 (LP-FT);
with CLIP's image encoder and a head made of class texts: the row "CLIP fine-tuning" of VL2V-ADiP.
Parity is tested in tests/golden/vl2v_adip (``baselines_*``).
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from dassl.config import Settings, at_least, one_of, only_if, setting
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.steps.settings import ONE_STAGE
from dassl.engine.steps.stages import StagedTrainer
from dassl.engine.steps.trainer import StepTrainer
from dassl.modeling.heads import Objective, StudentClassifier, TextHead
from dassl.modeling.networks import full_name
from trainers.common.teachers.build import build_teacher
from trainers.common.teachers.teacher import (
    PROMPT_STYLES,
    REPLACED_STYLES,
    Teacher,
    class_embeddings,
    prompt_names,
    run_templates,
)


class CrossEntropy(Objective):
    """CE(h(P(S(x))), y), the mean over the batch."""

    def outputs(self, network: StudentClassifier, images: Tensor) -> Tensor:
        """(B, C) logits."""
        return network(images)

    def losses(self, outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """{"loss"}."""
        return {"loss": F.cross_entropy(outputs, labels)}


@dataclass(frozen=True)
class ERMSettings(Settings, section="TRAINER.ERM"):
    """The head; shared by ERM, LP and LPFT."""

    head: str = setting(
        "linear",
        "linear: Lin(S) | projected: Lin(P(S)), P affine | text: CLIP's own texts, for students "
        "clip:<backbone>",
        one_of("linear", "projected", "text"),
    )
    projected_width: int = setting(
        512,
        "outputs of P, the capacity control (erm_prj)",
        at_least(1),
        read_if={"head": "projected"},
    )
    prompt_style: int = setting(
        2, "see TRAINER.VL2V.PROMPT_STYLE", one_of(*PROMPT_STYLES), read_if={"head": "text"}
    )


@TRAINER_REGISTRY.register()
class ERM(StepTrainer):
    """All of the student and its head learn by cross-entropy."""

    takes_networks = ("student", "teacher")  # the teacher's texts start the text head
    trained_parts: tuple[str, ...] = ("student", "projection", "head")
    declares = (ERMSettings, *ONE_STAGE)
    own_conditions = (
        only_if("DATASET.TEMPLATES", "TRAINER.ERM.HEAD", "text"),
        only_if("DATASET.TEMPLATES", "TRAINER.ERM.PROMPT_STYLE", *REPLACED_STYLES),
    )

    @classmethod
    def check_cfg(cls, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        settings = ERMSettings.of(cfg)
        run_templates(cfg, settings.prompt_style)
        if not cfg.MODEL.BACKBONE.NAME or settings.head != "text":  # given
            return
        student = full_name(cfg.MODEL.BACKBONE.NAME)
        if not student.startswith("clip:"):
            raise ValueError(
                f"TRAINER.ERM.HEAD text starts from CLIP's class texts, so that the student must "
                f"be a CLIP image tower; MODEL.BACKBONE.NAME is {student}. Set it to clip:ViT-B/16."
            )

    def build_projection(self, student_width: int) -> nn.Module:
        settings = ERMSettings.of(self.cfg)
        if settings.head == "projected":
            return nn.Linear(student_width, settings.projected_width)
        return nn.Identity()

    def build_head(self, width: int) -> nn.Module:
        cfg, settings = self.cfg, ERMSettings.of(self.cfg)
        if settings.head != "text":
            return super().build_head(width)
        teacher, style = self._text_teacher(), settings.prompt_style
        names, templates = prompt_names(style, self.classnames), run_templates(cfg, style)
        texts = class_embeddings(teacher, names, templates)
        if texts.shape[1] != width:
            raise ValueError(
                f"TRAINER.ERM.HEAD text: the class texts of {teacher.name} have {texts.shape[1]} "
                f"numbers, the student gives {width}. Use both towers of one "
                "CLIP, or TRAINER.ERM.HEAD linear."
            )
        return TextHead(texts, teacher.scale)

    def _text_teacher(self) -> Teacher:
        """Whose texts start the text head: the given teacher, or the student's own CLIP.

        Raises:
            ValueError: from_parts() was given a student alone, and it is not a CLIP's.
        """
        if given := self.given_networks.get("teacher"):
            return given
        cfg, student = self.cfg, self.student.name
        source, _, name = full_name(student).partition(":") if student else ("", "", "")
        if source != "clip":
            raise ValueError(
                "TRAINER.ERM.HEAD text starts from CLIP's class texts, and the given student "
                f"{student!r} has none. Give from_parts() teacher=..., too, or set "
                "TRAINER.ERM.HEAD linear."
            )
        return build_teacher(
            cfg.MODEL.BACKBONE.WEIGHTS or name,
            device=self.device,
            scale=1.0,
            norm="imagenet",
            mean=cfg.INPUT.PIXEL_MEAN,
            std=cfg.INPUT.PIXEL_STD,
        )

    def build_objective(self) -> CrossEntropy:
        return CrossEntropy()


@TRAINER_REGISTRY.register()
class LP(ERM):
    """A linear probe: the student is frozen, the head learns."""

    trained_parts = ("head",)
    next_stage = "ft"


@TRAINER_REGISTRY.register()
class LPFT(StagedTrainer):
    """LP, then ERM from its best checkpoint."""

    stages = (("lp", "LP"), ("ft", "ERM"))
    declares = ERM.declares
    defaults = ERM.defaults
