"""VL2V-ADiP: align a student to a vision-language teacher, distill it, predict without the teacher.

Addepalli, Asokan, Sharma, Babu: "Leveraging Vision-Language Models for Improving Domain
Generalization in Image Classification", CVPR 2024, arXiv 2310.08255, with its "naive distillation"
baselines. Parity is tested in tests/golden/vl2v_adip (``baselines_*``: the latter). The official
code (val-iisc/VL2V-ADiP) builds on DomainBed, SWAD and MIRO (MIT).
"""

import torch.nn.functional as F
from torch import Tensor

from dassl.modeling.heads import Objective, StudentClassifier, TextHead
from trainers.common.teachers.teacher import Teacher

LOGIT_LOSSES = ("kd_kl", "kd_cos")  # a linear head, CE plus a term on class probabilities
EMBEDDING_LOSSES = {"img_only": 1.0, "txt_only": 0.0, "one_stage": None}  # lam of section 2


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
        "loss": weight * image + (1.0 - weight) * text,  # L = lam L_img + (1 - lam) L_txt
        "loss_img": image.detach(),
        "loss_txt": text.detach(),
    }


class VL2VObjective(Objective):
    """L = lam (-mean cos(p, F_I(x))) + (1 - lam) (-mean cos(p, t_y)), p = P(S(x)).

    Of both stages: the projection P learns in the first, the student S in the second. F_I is the
    teacher's image encoder, t_y the text head's row of the label; without P, p = S(x).

    Args:
        teacher: gives F_I.
        weight: lam, the share of the image term.
    """

    def __init__(self, teacher: Teacher, *, weight: float) -> None:
        self.teacher, self.weight = teacher, weight

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
    """One of the losses by name: of ``kd_losses``, or ``distillation_losses`` in one stage.

    Args:
        teacher: gives F_I.
        class_texts: (C, D) unit rows.
        kind: one of LOGIT_LOSSES or EMBEDDING_LOSSES.
        weight: lam.
        temperature: tau.
    """

    def __init__(
        self, teacher: Teacher, class_texts: Tensor, *, kind: str, weight: float, temperature: float
    ) -> None:
        self.teacher = teacher
        self.teacher_head = TextHead(class_texts, teacher.scale).requires_grad_(False)
        self.kind, self.weight, self.temperature = kind, weight, temperature

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
            tau, lam = self.temperature, self.weight
            return kd_losses(student, labels, teacher, kind=self.kind, weight=lam, temperature=tau)
        fixed = EMBEDDING_LOSSES[self.kind]
        weight = self.weight if fixed is None else fixed
        return distillation_losses(
            student, teacher, self.teacher_head.weight[labels], weight=weight
        )
