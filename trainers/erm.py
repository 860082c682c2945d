"""Empirical risk minimisation, linear probing, and probing then fine-tuning.

Gulrajani, Lopez-Paz: "In Search of Lost Domain Generalization", ICLR 2021, arXiv 2007.01434 (ERM);
Kumar et al.: "Fine-Tuning can Distort Pretrained Features", ICLR 2022, arXiv 2202.10054 (LP-FT);
with CLIP's image encoder and a head made of class texts: the row "CLIP fine-tuning" of VL2V-ADiP.
Parity is tested in tests/golden/vl2v_adip (``baselines_*``).
"""

import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode
from yacs.config import CfgNode as CN

from dassl.config import Condition, only_if
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.steps.stages import StagedTrainer
from dassl.engine.steps.trainer import StepTrainer, step_cfg
from dassl.modeling.heads import Objective, StudentClassifier, TextHead
from dassl.modeling.networks import full_name
from dassl.utils import did_you_mean
from trainers.common.teachers.build import build_teacher
from trainers.common.teachers.teacher import class_embeddings, prompt_names, run_templates

HEADS = ("linear", "projected", "text")


class CrossEntropy(Objective):
    """CE(h(P(S(x))), y), the mean over the batch."""

    def outputs(self, network: StudentClassifier, images: Tensor) -> Tensor:
        """(B, C) logits."""
        return network(images)

    def losses(self, outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """{"loss"}."""
        return {"loss": F.cross_entropy(outputs, labels)}


def erm_cfg() -> CfgNode:
    """The nodes that ERM, LP and LPFT share."""
    cfg = step_cfg()
    node = cfg.TRAINER.ERM = CN()
    # linear: Lin(S) | projected: Lin(P(S)), P affine | text: CLIP's own texts (clip: students), all
    # of it trained
    node.HEAD = "linear"
    node.PROJECTED_WIDTH = 512  # projected: outputs of P, the capacity control (erm_prj)
    node.PROMPT_STYLE = 2  # text: see TRAINER.VL2V.PROMPT_STYLE
    return cfg


@TRAINER_REGISTRY.register()
class ERM(StepTrainer):
    """All of the student and its head learn by cross-entropy."""

    takes_networks = ("student", "teacher")  # the teacher's texts start the text head
    trained_parts = ("student", "projection", "head")
    default_cfg = staticmethod(erm_cfg)

    @classmethod
    def conditions(cls) -> list[Condition]:
        style = only_if("TRAINER.ERM.PROMPT_STYLE", "TRAINER.ERM.HEAD", "text")
        return [style, *super().conditions()]

    def check_cfg(self, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        head = cfg.TRAINER.ERM.HEAD
        if head not in HEADS:
            raise ValueError(f'TRAINER.ERM.HEAD is "{head}". {did_you_mean(head, HEADS)}')
        width = cfg.TRAINER.ERM.PROJECTED_WIDTH
        if width < 1:
            raise ValueError(f"TRAINER.ERM.PROJECTED_WIDTH is {width}; expected at least 1.")
        run_templates(cfg, cfg.TRAINER.ERM.PROMPT_STYLE)
        if self.has_given_student or head != "text":
            return
        student = full_name(cfg.MODEL.BACKBONE.NAME)
        if not student.startswith("clip:"):
            raise ValueError(
                f"TRAINER.ERM.HEAD text starts from CLIP's class texts, so that the student must "
                f"be a CLIP image tower; MODEL.BACKBONE.NAME is {student}. Set it to clip:ViT-B/16."
            )

    def build_projection(self, student_width: int) -> nn.Module:
        if self.cfg.TRAINER.ERM.HEAD == "projected":
            return nn.Linear(student_width, self.cfg.TRAINER.ERM.PROJECTED_WIDTH)
        return nn.Identity()

    def build_head(self, width: int) -> nn.Module:
        cfg = self.cfg
        if cfg.TRAINER.ERM.HEAD != "text":
            return super().build_head(width)
        teacher = self.given_networks.get("teacher") or build_teacher(
            cfg.MODEL.BACKBONE.WEIGHTS or full_name(cfg.MODEL.BACKBONE.NAME).split(":", 1)[1],
            device=self.device,
            scale=1.0,
            norm="imagenet",
            mean=cfg.INPUT.PIXEL_MEAN,
            std=cfg.INPUT.PIXEL_STD,
        )
        style = cfg.TRAINER.ERM.PROMPT_STYLE
        names, templates = prompt_names(style, self.classnames), run_templates(cfg, style)
        return TextHead(class_embeddings(teacher, names, templates), teacher.scale)

    def build_objective(self) -> CrossEntropy:
        return CrossEntropy()


@TRAINER_REGISTRY.register()
class LP(ERM):
    """A linear probe: the student is frozen, the head learns."""

    trained_parts = ("head",)
    hands_on = True


@TRAINER_REGISTRY.register()
class LPFT(StagedTrainer):
    """LP, then ERM from its best checkpoint."""

    stages = (("lp", "LP"), ("ft", "ERM"))
    ranges = ERM.ranges
    default_cfg = staticmethod(erm_cfg)
