"""What a step-based trainer minimises."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from trainers.common.dg_model import StudentClassifier


class Objective(ABC):
    """losses(outputs(network, images), labels): labels enter last.

    Mixed images have two labels each and need one forward pass, of the teacher as well.
    """

    def __call__(
        self, network: StudentClassifier, images: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Normalised images (B, 3, H, W), labels (B,) -> losses; "loss" is minimised."""
        return self.losses(self.outputs(network, images), labels)

    @abstractmethod
    def outputs(self, network: StudentClassifier, images: Tensor) -> Any:
        """Normalised images (B, 3, H, W) -> all that ``losses`` needs besides the labels."""

    @abstractmethod
    def losses(self, outputs: Any, labels: Tensor) -> dict[str, Tensor]:
        """Labels (B,) -> "loss", with a gradient, and further entries that are logged."""
