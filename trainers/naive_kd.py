"""Naive distillation baselines of VL2V-ADiP: one stage, all of the student learns at once.

Addepalli et al., CVPR 2024, arXiv 2310.08255, "naive distillation" rows. Parity is tested in
tests/golden/vl2v_adip (``baselines_*``).
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from dassl.config import Settings, above, one_of, only_if, setting
from dassl.engine import TRAINER_REGISTRY
from dassl.modeling.heads import Objective, StudentClassifier, TextHead
from trainers.common.teachers.distill_trainer import (
    DistillTrainer,
    VL2VSettings,
    distillation_losses,
)
from trainers.common.teachers.teacher import Teacher

LOGIT_LOSSES = ("kd_kl", "kd_cos")  # a linear head, CE plus a term on class probabilities
EMBEDDING_LOSSES = {"img_only": 1.0, "txt_only": 0.0, "one_stage": None}  # lam of section 2


@dataclass(frozen=True)
class NaiveKDSettings(Settings, section="TRAINER.NAIVEKD"):
    """Which loss."""

    loss: str = setting("kd_kl", "name of the loss", one_of(*LOGIT_LOSSES, *EMBEDDING_LOSSES))
    temperature: float = setting(
        0.1, "tau of kd_kl and kd_cos", above(0), read_if={"loss": LOGIT_LOSSES}
    )


def kd_losses(
    logits: Tensor,
    labels: Tensor,
    teacher_logits: Tensor,
    *,
    kind: str,
    weight: float,
    temperature: float,
) -> dict[str, Tensor]:
    """Cross-entropy plus agreement with the teacher's class probabilities.

    q = softmax(z_T / tau), r = softmax(z / tau), CE = -mean log r_y
    kd_cos: CE - lam mean_b cos(r, q)
    kd_kl:  CE + lam mean_{b,c} q (log q - r)

    Args:
        logits: z (B, C) of the student.
        labels: (B,).
        teacher_logits: z_T (B, C), scaled.
        kind: kd_cos | kd_kl.
        weight: lam.
        temperature: tau; divides the scaled logits of the teacher as well.
    """
    student, teacher = logits / temperature, (teacher_logits / temperature).softmax(dim=-1)
    label = F.cross_entropy(student, labels)
    if kind == "kd_cos":
        agreement = -F.cosine_similarity(student.softmax(dim=-1), teacher, dim=-1).mean()
    else:
        # parity: probabilities stand where log-probabilities belong, and the mean runs over B * C
        agreement = F.kl_div(student.softmax(dim=-1), teacher, reduction="none").mean()
    return {
        "loss": label + weight * agreement,
        "loss_ce": label.detach(),
        "loss_kd": agreement.detach(),
    }


class NaiveKDObjective(Objective):
    """One of the losses by name.

    Args:
        teacher: gives F_I.
        class_texts: (C, D) unit rows.
        weight: lam.
    """

    def __init__(
        self,
        teacher: Teacher,
        class_texts: Tensor,
        settings: NaiveKDSettings,
        *,
        weight: float,
    ) -> None:
        self.teacher = teacher
        self.teacher_head = TextHead(class_texts, teacher.scale).requires_grad_(False)
        self.kind = settings.loss
        self.weight = weight
        self.temperature = settings.temperature

    def outputs(self, network: StudentClassifier, images: Tensor) -> tuple[Tensor, ...]:
        """z and z_T (B, C); for losses on embeddings p and F_I (B, D)."""
        if self.kind in LOGIT_LOSSES:
            return network(images), self.teacher_head(self.teacher.encode_image(images))
        embeddings = network.embed(images)
        # txt_only needs no image of the teacher: nothing is asked of it
        is_text_only = EMBEDDING_LOSSES[self.kind] == 0.0
        targets = embeddings.detach() if is_text_only else self.teacher.encode_image(images)
        return embeddings, targets

    def losses(self, outputs: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
        """Of the named kind."""
        student, teacher = outputs
        if self.kind in LOGIT_LOSSES:
            return kd_losses(
                student,
                labels,
                teacher,
                kind=self.kind,
                weight=self.weight,
                temperature=self.temperature,
            )
        weight = EMBEDDING_LOSSES[self.kind]
        return distillation_losses(
            student,
            teacher,
            self.teacher_head.weight[labels],
            weight=self.weight if weight is None else weight,
        )


@TRAINER_REGISTRY.register()
class NaiveKD(DistillTrainer):
    """kd_kl and kd_cos learn student and linear head, the others student and projection."""

    stage = "train"
    declares = (NaiveKDSettings, *DistillTrainer.declares)
    own_conditions = (
        only_if("TRAINER.VL2V.LAMBDA", "TRAINER.NAIVEKD.LOSS", *LOGIT_LOSSES, "one_stage"),
    )

    @property
    def kind(self) -> str:
        """Name of the loss."""
        return NaiveKDSettings.of(self.cfg).loss

    @property
    def trained_parts(self) -> tuple[str, ...]:
        return ("student", "head" if self.kind in LOGIT_LOSSES else "projection")

    def build_projection(self, student_width: int) -> nn.Module:
        if self.kind in LOGIT_LOSSES:
            return nn.Identity()
        return nn.Linear(student_width, self.class_texts.shape[1])

    def build_head(self, width: int) -> nn.Module:
        if self.kind in LOGIT_LOSSES:
            return nn.Linear(width, self.num_classes)
        return super().build_head(width)

    def build_objective(self) -> NaiveKDObjective:
        objective = NaiveKDObjective(
            self.teacher,
            self.class_texts,
            NaiveKDSettings.of(self.cfg),
            weight=VL2VSettings.of(self.cfg).lambda_,
        )
        objective.teacher_head.to(self.device)
        return objective
