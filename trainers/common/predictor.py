"""A tuned classifier that needs neither its dataset nor its training run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from yacs.config import CfgNode

from clip import load_backbone
from clip.model import CLIP
from dassl.config import get_cfg_default
from dassl.data.pixels import normalise, unit_pixels

from .augment import Augmentation, Transform
from .loading import load_exactly
from .method import Method


@dataclass
class Predictor:
    """Images to class probabilities.

    Attributes:
        classnames: C names, ordered by label.
        size: side of the square input in pixels.
        logits: (B, 3, size, size) pixels in [0, 1] -> (B, C) scores before softmax.
        returns_probabilities: True for methods whose scores are (sums of) probabilities already.
        view: an image -> (3, size, size) pixels, as the evaluation saw it.
    """

    classnames: Sequence[str]
    size: int
    logits: Callable[[Tensor], Tensor]
    view: Transform
    returns_probabilities: bool = False

    def pixels(self, images: Sequence[Image.Image]) -> Tensor:
        """N images of any size -> (N, 3, size, size) in [0, 1], in this classifier's test view."""
        return pixels_of(images, self.view)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, 3, size, size) in [0, 1] -> (B, C) probabilities.

        Raises:
            FloatingPointError: if the model answers NaN.
        """
        scores = self.logits(pixels).float()
        if self.returns_probabilities:
            probabilities = scores / scores.sum(dim=-1, keepdim=True)
        else:
            probabilities = scores.softmax(dim=-1)
        if not probabilities.isfinite().all():
            raise FloatingPointError(
                "The model's scores are infinite or NaN, so it answers nothing. Look for such "
                "values in its weights and in those of its backbone."
            )
        return probabilities


def normalise_pixels(clip: CLIP, pixels: Tensor) -> Tensor:
    """[0, 1] pixels -> the backbone's normalised pixels, (B, 3, H, W)."""
    return normalise(pixels, clip.image_mean, clip.image_std)


def pixels_of(images: Sequence[Image.Image], view: Transform) -> Tensor:
    """N images of any size -> (N, 3, size, size) in [0, 1]."""
    return unit_pixels(torch.stack([view(image) for image in images]))


def config_of(checkpoint: dict, trainer: type) -> CfgNode:
    """The configuration that a checkpoint was trained with.

    Raises:
        ValueError: if the file carries none (an official checkpoint).
    """
    if "config" not in checkpoint:
        raise ValueError(
            "The checkpoint carries no configuration, so it was not written by this package. "
            "Evaluate it with train.py --eval-only --model-dir DIR, which takes the settings from "
            "the command line."
        )
    cfg = get_cfg_default()
    defaults = getattr(trainer, "default_cfg", CfgNode)()
    cfg.set_new_allowed(True)
    cfg.merge_from_other_cfg(defaults)
    cfg.merge_from_other_cfg(CfgNode.load_cfg(checkpoint["config"]))
    return cfg


def clip_predictor(trainer: type, checkpoint: dict, device: torch.device) -> Predictor:
    """Rebuild a ClipTrainer's method from its checkpoint alone."""
    cfg = trainer.prediction_cfg(config_of(checkpoint, trainer))
    classnames = list(checkpoint["classnames"])
    clip = load_backbone(checkpoint["backbone"], device=device)
    method = trainer.build_method(cfg, clip, classnames).to(device).eval()
    state = method.import_state(checkpoint["state_dict"], classnames, classnames)
    load_exactly(method, state, "given")
    view = Augmentation.from_cfg(cfg).test.build()  # of the run's evaluation
    return method_predictor(trainer, cfg, clip, method, classnames, view=view)


def method_predictor(
    trainer: type,
    cfg: CfgNode,
    clip: CLIP,
    method: Method,
    classnames: Sequence[str],
    *,
    view: Transform,
) -> Predictor:
    """Tie a method to its backbone; its text features are computed once."""
    trainer.name_same_classes(cfg, classnames)
    with torch.no_grad():
        text_features = method.text_features(clip)

    def logits(pixels: Tensor) -> Tensor:
        raw = trainer.encode_pixels(cfg, clip, method, pixels.to(clip.logit_scale.device))
        return method.logits(clip, method.image_features(raw), text_features)

    return Predictor(
        classnames,
        clip.visual.input_resolution,
        logits,
        view,
        returns_probabilities=trainer.returns_probabilities,
    )
