"""The deployed form of a step-based classifier: pixels in, logits out, nothing else needed."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dassl.config.yaml_files import read_config
from dassl.data.pixels import normalise
from dassl.engine.checkpoints import content_of, errors_name, find_checkpoint
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
        FileNotFoundError: if there is no checkpoint; says what to give.
        ValueError: if the checkpoint belongs to a trainer of another kind.
    """
    try:
        path = find_checkpoint(model_dir, "network")
    except FileNotFoundError as err:
        raise FileNotFoundError(_no_checkpoint(model_dir)) from err
    checkpoint = content_of(path)
    if "pixel_mean" not in checkpoint:
        trainer = checkpoint.get("trainer", "other code")
        raise ValueError(_no_student(path, trainer, path.parent.parent))
    with errors_name(path):
        network = network_of(checkpoint)
    deployed = DeployedClassifier(network, checkpoint["pixel_mean"], checkpoint["pixel_std"])
    return deployed.eval(), checkpoint


def _no_checkpoint(folder: Path) -> str:
    """Why there is nothing to deploy in a folder, and what to do."""
    if not folder.exists():
        return f"--model-dir {folder}: no such folder or file."
    config = folder / "config.yaml"
    if not config.is_file():
        return (
            f"{folder} is not a run of one trainer. Give the folder of one run: te_<domain> of a "
            f"leave-one-domain-out protocol, by {', '.join(STUDENT_TRAINERS)}."
        )
    cfg = read_config(config)
    if "STEPS" not in cfg:
        return _no_student(folder, cfg.TRAINER.NAME, folder)
    return f"{folder} is not finished. Give the run's command again first."


def _no_student(path: Path, trainer: str, folder: Path) -> str:
    return (
        f"{path} was written by {trainer}, which tunes a CLIP and needs it to predict. Only "
        f"students ({', '.join(STUDENT_TRAINERS)}) deploy alone. Use this run with python "
        f"predict.py --model-dir {folder} IMAGES."
    )
