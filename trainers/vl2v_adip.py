"""VL2V-ADiP: align a student to a vision-language teacher, distill it, predict without the teacher.

Addepalli, Asokan, Sharma, Babu: "Leveraging Vision-Language Models for Improving Domain
Generalization in Image Classification", CVPR 2024, arXiv 2310.08255. Parity is tested in
tests/golden/vl2v_adip. The official code (val-iisc/VL2V-ADiP) builds on DomainBed, SWAD and MIRO
(MIT).
"""

from torch import Tensor, nn
from yacs.config import CfgNode

from dassl.config import Condition, never
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.steps.settings import SEVERAL_STAGES, STEP_DEFAULTS
from dassl.engine.steps.stages import StagedTrainer
from dassl.modeling.heads import Objective, StudentClassifier
from dassl.modeling.networks import full_name
from trainers.common.teachers.distill_trainer import (
    DistillTrainer,
    StageRestarts,
    StageSaves,
    TeacherInput,
    VL2VSettings,
    distillation_losses,
)
from trainers.common.teachers.teacher import Teacher


class VL2VObjective(Objective):
    """The loss of all three trainers: p follows the teacher's image and the label's text.

    Args:
        teacher: gives F_I.
    """

    def __init__(self, teacher: Teacher, settings: VL2VSettings) -> None:
        self.teacher = teacher
        self.weight = settings.lambda_  # lam, the share of the image term

    def outputs(self, network: StudentClassifier, images: Tensor) -> tuple[Tensor, ...]:
        """p (B, D), F_I (B, D), Z (C, D)."""
        return (
            network.embed(images),
            self.teacher.encode_image(images),
            network.head.get_parameter("weight"),
        )

    def losses(self, outputs: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        """{"loss", "loss_img", "loss_txt"}."""
        embeddings, targets, texts = outputs
        return distillation_losses(embeddings, targets, texts[labels], weight=self.weight)


STAGED = (VL2VSettings, StageSaves, StageRestarts, TeacherInput, *SEVERAL_STAGES)
STAGED_DEFAULTS = {**STEP_DEFAULTS, "SWAD.ENABLED": True}


def not_of_stage(stage: str) -> Condition:
    """The keys that only another stage reads."""
    return never((StageSaves.key(stage), StageRestarts.key(stage)), "it belongs to the other stage")


@TRAINER_REGISTRY.register()
class VL2VAlign(DistillTrainer):
    """Stage 1: only the projection P learns; the student is frozen."""

    declares = STAGED
    defaults = STAGED_DEFAULTS
    stage = "align"
    next_stage = "distill"
    trained_parts = ("projection",)
    own_conditions = (not_of_stage("distill"),)

    @classmethod
    def check_cfg(cls, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        cls.check_next_stage(cfg)

    def build_projection(self, student_width: int) -> nn.Module:
        return nn.Linear(student_width, self.class_texts.shape[1])

    def build_objective(self) -> VL2VObjective:
        return VL2VObjective(self.teacher, VL2VSettings.of(self.cfg))


@TRAINER_REGISTRY.register()
class VL2VDistill(DistillTrainer):
    """Stage 2: all of the student learns, from the best checkpoint of stage 1; P is frozen."""

    declares = STAGED
    defaults = STAGED_DEFAULTS
    stage = "distill"
    trained_parts = ("student",)
    earlier_stage = "align"
    own_conditions = (not_of_stage("align"),)

    def build_projection(self, student_width: int) -> nn.Module:
        return nn.Linear(student_width, self.class_texts.shape[1])

    def build_objective(self) -> VL2VObjective:
        return VL2VObjective(self.teacher, VL2VSettings.of(self.cfg))


@TRAINER_REGISTRY.register()
class VL2VSD(DistillTrainer):
    """White box: a trainable copy of the teacher's image encoder, no P, one stage."""

    trained_parts = ("student",)

    @classmethod
    def check_cfg(cls, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        if not cfg.MODEL.BACKBONE.NAME:  # the student is given
            return
        student = full_name(cfg.MODEL.BACKBONE.NAME)
        teacher = VL2VSettings.of(cfg).teacher
        expected = f"clip:{teacher}"
        if student != expected:
            raise ValueError(
                f"VL2VSD distils a CLIP into its own image encoder, but MODEL.BACKBONE.NAME is "
                f"{student} and TRAINER.VL2V.TEACHER is {teacher}. Set "
                f"MODEL.BACKBONE.NAME {expected}."
            )

    def build_objective(self) -> VL2VObjective:
        return VL2VObjective(self.teacher, VL2VSettings.of(self.cfg))


@TRAINER_REGISTRY.register()
class VL2VADiP(StagedTrainer):
    """Align, then Distill."""

    stages = (("align", "VL2VAlign"), ("distill", "VL2VDistill"))
    declares = STAGED
    defaults = STAGED_DEFAULTS
