"""The trainers of VL2V-ADiP and of its naive distillation baselines, and their settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn
from yacs.config import CfgNode

from clip import fetch_weights
from dassl.config import (
    Condition,
    Settings,
    above,
    at_least,
    between,
    never,
    one_of,
    only_if,
    setting,
)
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.needed import NeededFile
from dassl.engine.steps.settings import (
    FIRST_SAVED,
    IN_SWAD,
    ONE_STAGE,
    RESTART,
    SEVERAL_STAGES,
    STEP_DEFAULTS,
)
from dassl.engine.steps.stages import StagedTrainer
from dassl.engine.steps.trainer import StepTrainer
from dassl.modeling.heads import Objective, TextHead
from dassl.modeling.networks import full_name
from dassl.optim.swad import RESET_RULES
from dassl.utils import ranks
from trainers.common.teachers.build import BLACK_BOXES, NORMS, build_teacher
from trainers.common.teachers.teacher import (
    PROMPT_STYLES,
    REPLACED_STYLES,
    class_embeddings,
    prompt_names,
    run_templates,
)

from .method import EMBEDDING_LOSSES, LOGIT_LOSSES, NaiveKDObjective, VL2VObjective

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


@dataclass(frozen=True)
class NaiveKDSettings(Settings, section="TRAINER.NAIVEKD"):
    """Which loss."""

    loss: str = setting("kd_kl", "name of the loss", one_of(*LOGIT_LOSSES, *EMBEDDING_LOSSES))
    temperature: float = setting(
        0.1, "tau of kd_kl and kd_cos", above(0), read_if={"loss": LOGIT_LOSSES}
    )


STAGED = (VL2VSettings, StageSaves, StageRestarts, TeacherInput, *SEVERAL_STAGES)
STAGED_DEFAULTS = {**STEP_DEFAULTS, "SWAD.ENABLED": True}


def not_of_stage(stage: str) -> Condition:
    """The keys that only another stage reads."""
    return never((StageSaves.key(stage), StageRestarts.key(stage)), "it belongs to the other stage")


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

    def build_projection(self, student_width: int) -> nn.Module:
        """P, affine."""
        return nn.Linear(student_width, self.class_texts.shape[1])

    def build_objective(self) -> Objective:
        return VL2VObjective(self.teacher, weight=VL2VSettings.of(self.cfg).lambda_)

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


@TRAINER_REGISTRY.register()
class VL2VDistill(DistillTrainer):
    """Stage 2: all of the student learns, from the best checkpoint of stage 1; P is frozen."""

    declares = STAGED
    defaults = STAGED_DEFAULTS
    stage = "distill"
    earlier_stage = "align"
    trained_parts = ("student",)
    own_conditions = (not_of_stage("align"),)


@TRAINER_REGISTRY.register()
class VL2VADiP(StagedTrainer):
    """Align, then Distill."""

    stages = (("align", "VL2VAlign"), ("distill", "VL2VDistill"))
    declares = STAGED
    defaults = STAGED_DEFAULTS


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

    def build_projection(self, student_width: int) -> nn.Module:
        return nn.Identity()


@TRAINER_REGISTRY.register()
class NaiveKD(DistillTrainer):
    """kd_kl and kd_cos learn student and linear head, the others student and projection."""

    declares = (NaiveKDSettings, *DistillTrainer.declares)
    own_conditions = (
        only_if("TRAINER.VL2V.LAMBDA", "TRAINER.NAIVEKD.LOSS", *LOGIT_LOSSES, "one_stage"),
    )

    @property
    def reads_logits(self) -> bool:
        """Whether the loss compares class probabilities, not embeddings."""
        return NaiveKDSettings.of(self.cfg).loss in LOGIT_LOSSES

    @property
    def trained_parts(self) -> tuple[str, ...]:
        return ("student", "head" if self.reads_logits else "projection")

    def build_projection(self, student_width: int) -> nn.Module:
        return nn.Identity() if self.reads_logits else super().build_projection(student_width)

    def build_head(self, width: int) -> nn.Module:
        if self.reads_logits:
            return nn.Linear(width, self.num_classes)
        return super().build_head(width)

    def build_objective(self) -> NaiveKDObjective:
        settings = NaiveKDSettings.of(self.cfg)
        objective = NaiveKDObjective(
            self.teacher,
            self.class_texts,
            kind=settings.loss,
            weight=VL2VSettings.of(self.cfg).lambda_,
            temperature=settings.temperature,
        )
        objective.teacher_head.to(self.device)
        return objective
