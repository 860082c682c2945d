"""A tuned classifier that needs neither its dataset nor its training run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from dassl.data.pixels import unit_pixels
from dassl.evaluation.calibration import Calibration, no_temperature
from dassl.features.views import Transform


def tempered_softmax(scores: Tensor, temperature: float) -> Tensor:
    """(B, C) -> softmax(scores / temperature)."""
    return (scores / temperature).softmax(dim=-1)


@dataclass
class Predictor:
    """Images to class probabilities.

    Attributes:
        classnames: C names, ordered by label.
        size: side of the square input in pixels.
        logits: (B, 3, size, size) pixels in [0, 1] -> (B, C) scores before softmax.
        features: (B, 3, size, size) pixels in [0, 1] -> (B, D) what the scores are made of.
        probabilities: (B, C) scores and the temperature that divides them -> rows of sum 1.
        view: an image -> (3, size, size) pixels, as the evaluation saw it.
        calibration: the temperature that divides the scores, or why there is none.
    """

    classnames: Sequence[str]
    size: int
    logits: Callable[[Tensor], Tensor]
    view: Transform
    features: Callable[[Tensor], Tensor] | None = None
    probabilities: Callable[[Tensor, float], Tensor] = tempered_softmax
    calibration: Calibration = field(default_factory=lambda: no_temperature("nothing was trained"))

    @property
    def is_calibrated(self) -> bool:
        """Whether a temperature makes probabilities of the scores."""
        return self.calibration["temperature"] is not None

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
        probabilities = self.probabilities(scores, self.calibration["temperature"] or 1.0)
        if not probabilities.isfinite().all():
            raise FloatingPointError(
                "The model's scores are infinite or NaN, so it answers nothing. Look for such "
                "values in its weights and in those of its backbone."
            )
        return probabilities


def pixels_of(images: Sequence[Image.Image], view: Transform) -> Tensor:
    """N images of any size -> (N, 3, size, size) in [0, 1]."""
    return unit_pixels(torch.stack([view(image) for image in images]))
