"""Base of the trainers that tune a CLIP-like backbone.

Loads the backbone, keeps it frozen, builds the method, and leaves the mathematics to the method's
stages (``trainers/common/method.py``).
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from clip import available_models, load_backbone
from clip.foreign.image import IMAGE_HOOKS
from clip.model import CLIP
from dassl.config import Condition, declared_cfg, never
from dassl.config.pixels import OPEN, close_with_backbone
from dassl.config.ranges import PRECISIONS, Choice
from dassl.config.tools import unfrozen
from dassl.engine.mixed_precision import MixedPrecision
from dassl.engine.predictor import Predictor
from dassl.engine.settings.shared_conditions import STORED_VIEWS, UNREAD, no_epochs
from dassl.engine.updating.numerics import EVERYWHERE
from dassl.engine.updating.step_losses import logged
from dassl.features.encoder import AUTOCAST
from dassl.modeling.compiled import compile_layers
from dassl.optim import build_lr_scheduler, build_optimizer
from trainers.common.text.class_words import warn_of_same_words, words_of
from trainers.common.text.templates import check_templates

from .checkpoints import load_method, start_from
from .clip_encoder import ClipEncoder, backbone_input
from .method import Method, Names, State
from .predictor import clip_predictor, normalise_pixels

logger = logging.getLogger(__name__)


class ClipTrainer(MixedPrecision):
    """A trainer with a CLIP backbone and one registered method.

    A subclass names its settings in ``declares`` and its method in ``method_class``, or overrides
    ``build_method`` where more than backbone, class names and settings make the method.
    Only the method's parameters are trained; the backbone stays frozen and in eval mode.
    """

    default_cfg = classmethod(declared_cfg)
    follows_backbone = tuple(OPEN)
    takes_networks: tuple[str, ...] = ("clip",)
    method_class: Callable[..., Method] | None = None  # of (clip, classnames, settings, **options)
    model_name = "prompt_learner"  # folder of the checkpoints, as in the official code
    runs_alone = ""
    unused_flags = {"--head": "its scores come from CLIP"}
    shapes_scores: tuple[str, ...] = (
        "TRAINER.",
        "LOSS.",
        "MODEL.BACKBONE.NAME",
        "MODEL.BACKBONE.ACTIVATION",
        "DATASET.TEMPLATES",
        "DATASET.PROMPT",
        "DATASET.INCLUDE_ALL_CLASSES",
    )
    varies_at_test = frozenset({"PREC", "MODEL.BACKBONE.NAME"})  # the name, not the weights
    own_conditions: Sequence[Condition] = (
        no_epochs(),
        never("MODEL.BACKBONE.PRETRAINED", "a CLIP is always a trained one"),
        *UNREAD,
    )
    view_conditions: tuple[Condition, ...] = (  # on settings of loaders and views
        never(STORED_VIEWS, "every epoch reads the images again: no views are stored"),
    )

    # ----------------------------------------------------------------- set-up
    @property
    def needs_vit(self) -> bool:
        """Whether the method needs hooks in a transformer image tower."""
        hook = getattr(self.method_class, "image_hook", Method.image_hook)
        return hook is not Method.image_hook

    @property
    def settings(self) -> Any:
        """The method's own settings."""
        return self.declares[0].of(self.cfg) if self.declares else None

    @classmethod
    def check_cfg(cls, cfg: CfgNode) -> None:
        """Refuse a form of the images, or of the sentences, that cannot work.

        Raises:
            ValueError: naming the key, its value and what is allowed.
        """
        cls.check_pixels(cfg)
        name = cls.__name__
        if cfg.DATALOADER.K_TRANSFORMS != 1:
            raise ValueError(
                f"DATALOADER.K_TRANSFORMS is {cfg.DATALOADER.K_TRANSFORMS}, but {name} takes one "
                "view of an image per step. Leave it at 1."
            )
        if cfg.INPUT.NO_TRANSFORM:
            raise ValueError(f"INPUT.NO_TRANSFORM is True, but {name} needs tensors. Leave it out.")
        if cfg.DATASET.TEMPLATES:
            check_templates(cfg.DATASET.TEMPLATES)

    @classmethod
    def templates(cls, cfg: CfgNode) -> list[str]:
        """Sentences, {} for a name, that class vectors are made of; [] where words are learned."""
        return []

    @classmethod
    def conditions(cls) -> list[Condition]:
        return [*super().conditions(), *cls.view_conditions]

    @classmethod
    def check_pixels(cls, cfg: CfgNode) -> None:
        """Refuse transforms that do not normalise: the image tower reads what the loader yields.

        Raises:
            ValueError: saying what to add.
        """
        if "normalize" not in cfg.INPUT.TRANSFORMS:
            raise ValueError(
                f"INPUT.TRANSFORMS is {list(cfg.INPUT.TRANSFORMS)} without normalize, but "
                f"{cls.__name__} needs normalised pixels. Add it: --transforms "
                f"{' '.join([*cfg.INPUT.TRANSFORMS, 'normalize'])}."
            )

    def build_data_loader(self) -> None:
        """Load the backbone first: it decides how images are prepared."""
        self.precision = self.effective_precision()
        self.clip = self._backbone("fp16" if self.precision == "fp16" else "fp32")
        self._check_backbone(self.clip)
        self.backbone_digest = ClipEncoder(self.clip).digest  # while the weights are on the CPU
        self.clip.to(self.device)
        compile_layers(self.cfg, self.clip, device=self.device)
        close_with_backbone(self.cfg, self.image_input())
        super().build_data_loader()

    def _backbone(self, precision: str) -> CLIP:
        """The given backbone, frozen and in the precision of this run, or the config's."""
        given = self.given_networks.get("clip")
        if given is None and not self.cfg.MODEL.BACKBONE.NAME:
            raise ValueError(
                "MODEL.BACKBONE.NAME is empty. Give --backbone NAME, one of "
                f"{', '.join(available_models())}, open_clip:<arch>/<pretrained> or a path."
            )
        if given is None:
            return load_backbone(
                self.cfg.MODEL.BACKBONE.NAME,
                precision=precision,
                activation=self.cfg.MODEL.BACKBONE.ACTIVATION,
            )
        dtype = torch.float16 if precision == "fp16" else torch.float32
        if given.dtype != dtype:
            raise ValueError(
                f"The given clip computes in {given.dtype}, this run in {dtype} (its "
                f"setting PREC). Load it with load_backbone(name, precision={precision!r})."
            )
        with unfrozen(self.cfg):
            self.cfg.MODEL.BACKBONE.NAME = given.backbone_name
        return given.eval().requires_grad_(False)

    def image_input(self) -> dict[str, Any]:
        """How images are prepared: values of INPUT.SIZE, PIXEL_MEAN, ...; the backbone's own."""
        return backbone_input(self.clip)

    @classmethod
    def precisions(cls) -> tuple[str, ...]:
        """What PREC allows, tf32, and bf16 where amp is allowed; all without a PREC."""
        rules = cls.declares[0].rules() if cls.declares else ()
        own = [rule.allowed for key, _, rule in rules if key.endswith(".PREC")]
        allowed = own[0].values if own and isinstance(own[0], Choice) else PRECISIONS
        also = ("tf32", "bf16") if "amp" in allowed else ("tf32",)
        return tuple(name for name in PRECISIONS if name in (*allowed, *also))

    @classmethod
    def own_precision(cls, cfg: CfgNode) -> str:
        """A PREC of fp16 or amp; else what the method's official code does on a GPU, or tf32."""
        prec = getattr(cls.declares[0].of(cfg) if cls.declares else None, "prec", "fp32")
        return super().own_precision(cfg) if prec == "fp32" else prec

    def effective_precision(self) -> str:
        own = getattr(self.settings, "prec", "fp32")
        if own not in EVERYWHERE and self.device.type == "cpu":
            logger.warning(
                "%s %s runs as fp32 on a CPU; set PREC fp32 to silence this.",
                self.settings.key("prec"),
                own,
            )
        return super().effective_precision()

    @property
    def encoding(self) -> str:
        """The precision of encoders that have float32 weights: amp or bf16 by TRAIN.PRECISION."""
        wanted = self.cfg.TRAIN.PRECISION
        return self.precision if wanted and self.precision in AUTOCAST else "fp32"

    def _check_backbone(self, clip: CLIP) -> None:
        if self.needs_vit and not hasattr(clip.visual, "transformer"):
            raise ValueError(
                f"{type(self).__name__} changes the blocks of a transformer image tower, and "
                f"{self.cfg.MODEL.BACKBONE.NAME} has none. Backbones that work: {IMAGE_HOOKS}."
            )

    @classmethod
    def class_words(cls, cfg: CfgNode, classname: str) -> str:
        """The words of a class name in the method's prompts."""
        return words_of(classname)

    @classmethod
    def name_same_classes(cls, cfg: CfgNode, classnames: Sequence[str]) -> None:
        """Warn of classes whose prompts are the same text."""
        warn_of_same_words(classnames, [cls.class_words(cfg, name) for name in classnames])

    @classmethod
    def build_method(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> Method:
        """Build the method for a backbone and class names: a ``method_class`` of its settings."""
        return cls._made(cfg, clip, classnames, **cls.references(cfg, clip, classnames))

    @classmethod
    def _made(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str], **more: Any) -> Method:
        if cls.method_class is None:
            raise TypeError(
                f"{cls.__name__} does not override build_method(cfg, clip, classnames)."
            )
        settings = cls.declares[0].of(cfg)
        return cls.method_class(clip, classnames, settings, **cls.options(cfg), **more)

    @classmethod
    def options(cls, cfg: CfgNode) -> dict[str, Any]:
        """What ``method_class`` takes beside backbone, class names and the method's settings."""
        return {"chunk": cfg.TRAIN.TEXT_CHUNK}

    @classmethod
    def references(cls, cfg: CfgNode, clip: CLIP, classnames: Sequence[str]) -> dict[str, Any]:
        """What only the losses of ``method_class`` read beside: encoded where a run begins."""
        return {}

    @classmethod
    def restore_method(cls, cfg: CfgNode, clip: CLIP, classnames: Names, state: State) -> Method:
        """Build the method that a checkpoint's tensors are loaded into, to predict.

        A ``method_class`` without ``references``. Override where ``build_method`` would read a file
        or encode what ``state`` holds.
        """
        make = cls._made if cls.method_class else cls.build_method
        return make(cfg, clip, classnames)

    def build_model(self) -> None:
        """Build and register the method; only its trainable tensors get an optimiser."""
        self.name_same_classes(self.cfg, self.classnames)
        self.method = self.make_method().to(self.device)
        self.prepare_method()
        if self.cfg.MODEL.INIT_WEIGHTS and "MODEL.INIT_WEIGHTS" not in self.idle_settings(self.cfg):
            start_from(self, self.cfg.MODEL.INIT_WEIGHTS)
        self.optim = self.sched = None
        self.scaler = self.make_scaler()
        if any(p.requires_grad for p in self.method.parameters()):
            self.optim = build_optimizer(self.method, self.cfg.OPTIM, self.param_groups())
            loader = self.train_loader_x
            self.sched = build_lr_scheduler(
                self.optim, self.cfg.OPTIM, steps_per_epoch=1 if loader is None else len(loader)
            )
        else:
            self.max_epoch = 0  # nothing to train
        self.register_model(self.model_name, self.method, self.optim, self.sched)

    def prepare_method(self) -> None:
        """Make room in the method for what depends on the data (a cache's size), if anything."""

    def make_method(self) -> Method:
        """Build the method of this run; override where it needs more than the class names."""
        return self.build_method(self.cfg, self.clip, self.classnames)

    def param_groups(self) -> list[dict] | None:
        """Optimiser groups where a method's parameters differ in learning rate; None: one group."""
        return None

    @property
    def classnames(self) -> list[str]:
        """Class names of this run, ordered by label."""
        return list(self.dm.dataset.classnames)

    @property
    def total_parameters(self) -> int:
        """Parameters of backbone and method together."""
        modules = (self.clip, self.method)
        return sum(p.numel() for module in modules for p in module.parameters())

    # ----------------------------------------------------------------- training
    def raw_features(self, images: Tensor) -> Tensor:
        """What a batch carries -> raw image features (B, D)."""
        return self.method.raw_image_features(self.clip, images)

    def forward_backward(self, batch: dict) -> dict[str, float]:
        """One optimiser step on a batch; returns the losses to log."""
        images, labels = self.parse_batch_train(batch)[:2]
        with self.autocast():
            losses = self.method.losses(self.clip, self.raw_features(images), labels)
        self.optimise(losses["loss"])
        self.step_schedule()
        return logged(losses)

    def step_schedule(self) -> None:
        """Step the learning rate after a batch, or at an epoch's last one (OPTIM.STEP_PER)."""
        if self.cfg.OPTIM.STEP_PER == "batch" or (self.batch_idx + 1) == self.num_batches:
            self.update_lr()

    def after_train(self) -> None:
        """Keep the method of a training-free run as epoch 0, then deploy and test."""
        if self.max_epoch == 0:
            self.save_model(-1, self.output_dir)
        super().after_train()

    # ----------------------------------------------------------------- evaluation
    def inference(self) -> Callable[[Any], Tensor]:
        """Text features are computed once per evaluation."""
        with self.evaluation_autocast():
            text = self.evaluation_text()

        def scores(images: Any) -> Tensor:
            with self.evaluation_autocast():
                return self.model_inference(images, text_features=text)

        return scores

    def evaluation_text(self) -> Tensor | None:
        """(C, D) unit rows that an evaluation compares images with; None: see ``text_features``."""
        return self.method.text_features(self.clip)

    def model_inference(self, images: Any, text_features: Tensor | None = None) -> Tensor:
        """A test batch, and what ``evaluation_text`` gave for all of them -> (B, C) logits."""
        text = self.evaluation_text() if text_features is None else text_features
        image_features = self.method.image_features(self.raw_features(images))
        return self.method.logits(self.clip, image_features, text)

    # ----------------------------------------------------------------- use without a dataset
    @classmethod
    def encode_pixels(cls, cfg: CfgNode, clip: CLIP, method: Method, pixels: Tensor) -> Tensor:
        """[0, 1] pixels (B, 3, H, W) -> what the method's ``image_features`` reads."""
        return method.raw_image_features(clip, normalise_pixels(clip, pixels))

    @classmethod
    def about_bundle(cls, cfg: CfgNode) -> dict[str, Any]:
        """What the card of a bundle says of this method beside backbone and preprocessing."""
        return {"templates": cls.templates(cfg)}

    @classmethod
    def load_predictor(cls, checkpoint: dict, device: torch.device) -> Predictor:
        """A classifier from a checkpoint's contents; reads no dataset."""
        return clip_predictor(cls, checkpoint, device)

    # ----------------------------------------------------------------- files
    def results_meta(self) -> dict[str, Any]:
        return {**super().results_meta(), "activation": self.clip.activation}

    def checkpoint_meta(self) -> dict:
        """What ``predict.py`` and a transfer to other classes need."""
        return {
            "trainer": type(self).__name__,
            "classnames": self.classnames,
            "class_ids": list(getattr(self.dm.dataset, "class_ids", [])),
            "backbone": self.cfg.MODEL.BACKBONE.NAME,
            "backbone_digest": self.backbone_digest,
            "activation": self.clip.activation,
            "input_size": int(self.cfg.INPUT.SIZE[0]),
            "config": self.cfg.dump(),
        }

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load the method of ``<directory>/<model_name>``, for this run's classes.

        Raises:
            FileNotFoundError: if the file is missing; the text lists the epochs that exist.
            ValueError: if the file does not fit this run.
        """
        if not directory:
            logger.warning("load_model is skipped: no --model-dir given.")
            return
        load_method(self, directory, epoch)
