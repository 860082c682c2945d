"""The deployed form of a step-based classifier: pixels in, logits out, nothing else needed."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dassl.data.pixels import normalise
from dassl.engine.state.checkpoints import content_of, errors_name, find_checkpoint
from dassl.engine.steps.files import network_of
from dassl.modeling.heads import StudentClassifier

STUDENT_TRAINERS = ("VL2VADiP", "VL2VSD", "ERM", "LP", "LPFT", "MIRO", "NaiveKD")


class DeployedClassifier(nn.Module):
    """logits = network((pixels - mean) / std), with the normalisation inside.

    Args:
        network: student, projection, head.
        mean, std: per channel, of pixels in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: StudentClassifier, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, C) logits."""
        return self.network(normalise(pixels, self.mean, self.std))


def load_deployed(model_dir: Path) -> tuple[DeployedClassifier, dict]:
    """The classifier of a finished run (or of a checkpoint file), and the checkpoint.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if the checkpoint belongs to a trainer of another kind.
    """
    path = find_checkpoint(model_dir, "network")
    checkpoint = content_of(path)
    if "pixel_mean" not in checkpoint:
        raise ValueError(
            f"{path} was written by {checkpoint.get('trainer', 'other code')}; a program is made "
            f"of a tuned CLIP, or of a student ({', '.join(STUDENT_TRAINERS)})."
        )
    with errors_name(path):
        network = network_of(checkpoint)
    deployed = DeployedClassifier(network, checkpoint["pixel_mean"], checkpoint["pixel_std"])
    return deployed.eval(), checkpoint
