"""Predictors of CLIP trainers, rebuilt from a checkpoint alone."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from yacs.config import CfgNode

from clip import load_backbone
from clip.model import CLIP
from dassl.config import get_cfg_default
from dassl.data.pixels import normalise
from dassl.engine.predictor import Predictor
from dassl.engine.settings.trained import config_in
from dassl.features.views import Augmentation, Transform

from .checkpoints import load_state
from .method import Method

if TYPE_CHECKING:
    from .clip_trainer import ClipTrainer


def normalise_pixels(clip: CLIP, pixels: Tensor) -> Tensor:
    """[0, 1] pixels -> the backbone's normalised pixels, (B, 3, H, W)."""
    return normalise(pixels, clip.image_mean, clip.image_std)


def config_of(checkpoint: dict, trainer: "type[ClipTrainer]") -> CfgNode:
    """The configuration that a checkpoint was trained with.

    Raises:
        ValueError: if the file carries none (an official checkpoint).
    """
    if "config" not in checkpoint:
        raise ValueError(
            "The checkpoint carries no configuration, so it was not written by this package. "
            "Evaluate it with python train.py --eval-only --model-dir DIR, which takes the "
            "settings from the command line."
        )
    cfg = get_cfg_default()
    defaults = getattr(trainer, "default_cfg", CfgNode)()
    cfg.set_new_allowed(True)
    cfg.merge_from_other_cfg(defaults)
    cfg.merge_from_other_cfg(config_in(checkpoint) or CfgNode())
    return cfg


class Rebuilt(NamedTuple):
    """What a ClipTrainer's checkpoint holds, ready to predict."""

    cfg: CfgNode
    clip: CLIP
    method: Method
    classnames: list[str]


def clip_predictor(
    trainer: "type[ClipTrainer]",
    checkpoint: dict,
    device: torch.device,
    new_names: Sequence[str] = (),
) -> Predictor:
    """The predictor of a ClipTrainer's checkpoint; for other classes where it can.

    Raises:
        ValueError: as ``rebuild``.
    """
    return rebuilt_predictor(trainer, rebuild(trainer, checkpoint, device, new_names))


def rebuilt_predictor(trainer: "type[ClipTrainer]", rebuilt: Rebuilt) -> Predictor:
    """The same of what was rebuilt already."""
    cfg, clip, method, names = rebuilt
    view = Augmentation.from_cfg(cfg).test.build()  # of the run's evaluation
    return method_predictor(trainer, cfg, clip, method, names, view=view)


def rebuild(
    trainer: "type[ClipTrainer]",
    checkpoint: dict,
    device: torch.device,
    new_names: Sequence[str] = (),
) -> Rebuilt:
    """Rebuild a ClipTrainer's method from its checkpoint alone; for other classes where it can.

    Raises:
        ValueError: new names for a method that learns something of each class.
    """
    cfg, state = config_of(checkpoint, trainer), checkpoint["state_dict"]
    classnames = list(checkpoint["classnames"])
    activation = checkpoint.get("activation", "")  # not in files of the first version
    clip = load_backbone(checkpoint["backbone"], device=device, activation=activation)
    if new_names:
        method = trainer.build_method(cfg, clip, new_names)
        if of_classes := (*method.per_class, *method.per_known_class):
            raise ValueError(
                f"{trainer.__name__} learns {of_classes[-1]} for each class of its training "
                f"({', '.join(classnames[:3])}, ...), so it cannot take new names. Leave "
                "--classnames out, or take a method that serves any class: CoOp, MMA, MaPLe, ..."
            )
    else:
        method = trainer.restore_method(cfg, clip, classnames, state)
    method = method.to(device).eval()
    names = list(new_names) or classnames
    load_state(method, state, classnames, names, "The checkpoint")
    return Rebuilt(cfg, clip, method, names)


def method_predictor(
    trainer: "type[ClipTrainer]",
    cfg: CfgNode,
    clip: CLIP,
    method: Method,
    classnames: Sequence[str],
    *,
    view: Transform,
) -> Predictor:
    """Tie a method to its backbone; its text features are computed once.

    Raises:
        ValueError: if they are not a row per class, of the backbone's width.
    """
    trainer.name_same_classes(cfg, classnames)
    with torch.no_grad():
        text_features = method.text_features(clip)
    if text_features is not None and text_features.ndim == 2:
        found = tuple(text_features.shape)
        expected = len(classnames), getattr(clip.visual, "output_dim", found[1])
        if found != expected:
            raise ValueError(
                f"The classifier is {found}; its class names and backbone need {expected}."
            )

    def features(pixels: Tensor) -> Tensor:
        raw = trainer.encode_pixels(cfg, clip, method, pixels.to(clip.logit_scale.device))
        return method.image_features(raw)

    def logits(pixels: Tensor) -> Tensor:
        return method.logits(clip, features(pixels), text_features)

    return Predictor(
        classnames,
        clip.visual.input_resolution,
        logits,
        view,
        features,
        probabilities=method.probabilities,
    )
