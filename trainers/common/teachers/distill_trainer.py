"""Base of the step-based trainers that have a vision-language teacher."""

from functools import partial
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode
from yacs.config import CfgNode as CN

from clip import fetch_weights
from dassl.config import Condition, above, between
from dassl.engine.needed import NeededFile
from dassl.engine.steps.trainer import StepTrainer, step_cfg
from dassl.modeling.heads import TextHead

from .build import BLACK_BOXES, build_teacher
from .teacher import class_embeddings, prompt_names, run_templates

STAGES = ("ALIGN", "DISTILL")
JOURNAL = "resume.queries"  # counts what is asked of the teacher as it happens
MODEL_SAVE = 100  # first step that may become the best checkpoint


def distill_cfg(stages: tuple[str, ...] = STAGES) -> CfgNode:
    """The nodes of the trainers with a teacher.

    Args:
        stages: stages that have their own MODEL_SAVE and SWAD.RESET; () for one-stage trainers.
    """
    cfg = step_cfg()
    node = cfg.TRAINER.VL2V = CN()
    # a CLIP backbone | http(s)://..., an endpoint | python:<module>:<function>
    node.TEACHER = "ViT-B/16"
    node.SCALE = 100.0  # logit scale of an endpoint that does not tell its own
    node.LAMBDA = 0.5  # lam: share of the image term
    # 1 | 2 | 3 | 5 | 6, see trainers/common/teacher.py; DATASET.TEMPLATES replaces its templates
    node.PROMPT_STYLE = 2
    cfg.INPUT.TEACHER_NORM = "imagenet"  # imagenet: the student's images | clip: CLIP's statistics
    cfg.SWAD.ENABLED = True
    cfg.SWAD.RESET = "cumulative"
    if stages:
        # first step that may be saved, per stage
        node.MODEL_SAVE = CN(dict.fromkeys(stages, MODEL_SAVE))
        cfg.SWAD.RESET = CN(dict.fromkeys(stages, "cumulative"))
        del cfg.STEPS["MODEL_SAVE"]
    return cfg


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
    varies_at_test = StepTrainer.varies_at_test | {"TEACHER"}
    ranges = {
        **StepTrainer.ranges,
        "TRAINER.VL2V.LAMBDA": between(0, 1),
        "TRAINER.VL2V.SCALE": above(0),
    }

    @classmethod
    def conditions(cls) -> list[Condition]:
        return [
            Condition(
                ("TRAINER.VL2V.SCALE",),
                lambda cfg: cfg.TRAINER.VL2V.TEACHER.startswith(("http://", "https://")),
                "the teacher {TRAINER.VL2V.TEACHER} tells its own scale",
            ),
            *super().conditions(),
        ]

    def check_cfg(self, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        run_templates(cfg, cfg.TRAINER.VL2V.PROMPT_STYLE)

    @staticmethod
    def needed_files(cfg: CfgNode) -> list[NeededFile]:
        """The student's weights and, of a CLIP at hand, the teacher's."""
        teacher = cfg.TRAINER.VL2V.TEACHER
        needed = StepTrainer.needed_files(cfg)
        if not teacher.startswith(BLACK_BOXES):
            read = partial(fetch_weights, teacher)
            needed.append(NeededFile(f"Teacher {teacher}", read, may_download=True))
        return needed

    def build_model(self) -> None:
        """Build the teacher and the class texts first."""
        cfg, node = self.cfg, self.cfg.TRAINER.VL2V
        self.teacher = self.given_networks.get("teacher") or build_teacher(
            node.TEACHER,
            device=self.device,
            scale=node.SCALE,
            norm=cfg.INPUT.TEACHER_NORM,
            mean=cfg.INPUT.PIXEL_MEAN,
            std=cfg.INPUT.PIXEL_STD,
        )
        names = prompt_names(node.PROMPT_STYLE, self.classnames)
        templates = run_templates(cfg, node.PROMPT_STYLE)
        texts = class_embeddings(self.teacher, names, templates, keep=True)
        self.class_texts = texts.to(self.device)
        super().build_model()

    def build_head(self, width: int) -> nn.Module:
        """The text head; frozen unless it is among ``trained_parts``."""
        dimension = self.class_texts.shape[1]
        if width != dimension:
            raise ValueError(
                f"The student gives {width} numbers per image and the teacher "
                f"{self.cfg.TRAINER.VL2V.TEACHER} {dimension}: without a projection they must be "
                "equal. Choose a student that is the teacher's own image encoder."
            )
        return TextHead(self.class_texts, self.teacher.scale)

    @property
    def stage_key(self) -> str:
        """Name of the stage in the config."""
        return self.stage.upper()

    def first_saved(self, cfg: CfgNode) -> tuple[str, int]:
        node, key = cfg.TRAINER.VL2V, self.stage_key
        if "MODEL_SAVE" not in node:
            return super().first_saved(cfg)
        return f"TRAINER.VL2V.MODEL_SAVE.{key}", node.MODEL_SAVE[key]

    @property
    def swad_reset(self) -> str:
        reset = self.cfg.SWAD.RESET
        return reset[self.stage_key] if isinstance(reset, CfgNode) else reset

    def checkpoint_meta(self) -> dict:
        node = self.cfg.TRAINER.VL2V
        return {
            **super().checkpoint_meta(),
            "teacher": node.TEACHER,
            "prompt_style": node.PROMPT_STYLE,
            "templates": list(run_templates(self.cfg, node.PROMPT_STYLE)),
            "logit_scale": self.teacher.scale,
        }

    def before_train(self) -> None:
        super().before_train()  # all checks are passed: from here on the folder holds a run
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
