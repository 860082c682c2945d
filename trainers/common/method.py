"""The four stages that every CLIP classifier here consists of.

A method is an ``nn.Module`` that holds only its own parameters and buffers. The frozen backbone is
passed in by the caller and never stored, so that a checkpoint holds exactly what the method adds.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.model import CLIP
from dassl.metrics import compute_accuracy

from .checkpoints import select_rows


class Method(nn.Module):
    """text features, image features, logits, loss; override the stages that change.

    ``forward`` chains them: images (B, 3, H, W) -> logits (B, C).
    """

    def text_features(self, clip: CLIP) -> Tensor | None:
        """(C, D) unit rows. None where no image-independent class vectors exist (CoCoOp)."""
        raise TypeError(f"{type(self).__name__} defines no text_features(clip).")

    def raw_image_features(self, clip: CLIP, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised pixels -> (B, D), before L2 normalisation."""
        return clip.encode_image(images.to(clip.dtype))

    def image_features(self, raw_image_features: Tensor) -> Tensor:
        """(B, D) raw features -> (B, D), unit rows."""
        return F.normalize(raw_image_features, dim=-1)

    def logits(self, clip: CLIP, image_features: Tensor, text_features: Tensor | None) -> Tensor:
        """(B, D), (C, D) -> (B, C) cosines times exp(logit scale)."""
        return scaled_cosines(clip, image_features, text_features)

    def losses(self, clip: CLIP, raw_image_features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Training losses of a batch; "loss" is minimised, every entry is logged.

        Args:
            raw_image_features: (B, D), before L2 normalisation.
            labels: (B,) int64.
        """
        image_features = self.image_features(raw_image_features)
        logits = self.logits(clip, image_features, self.text_features(clip))
        return cross_entropy_losses(logits, labels)

    def forward(self, clip: CLIP, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised pixels -> (B, C) logits."""
        image_features = self.image_features(self.raw_image_features(clip, images))
        return self.logits(clip, image_features, self.text_features(clip))

    def has_class_rows(self, name: str) -> bool:
        """Whether a tensor of the state dict has one row per class."""
        return False

    def import_state(
        self,
        state: dict[str, Tensor],
        source_classes: Sequence[str] | None,
        classes: Sequence[str],
    ) -> dict[str, Tensor]:
        """Turn a checkpoint's tensors into this module's state dict.

        Rows of classes (``has_class_rows``) become those of this run's classes; override where
        more changes.

        Args:
            state: tensors of the checkpoint, official or ours.
            source_classes: what it was trained on, names or WordNet ids; None in foreign files.
            classes: the classes of this run, named likewise.

        Raises:
            ValueError: if a class of this run has no row.
        """
        by_class = {key for key in state if self.has_class_rows(key)}
        if not by_class or source_classes is None or list(source_classes) == list(classes):
            return state
        rows = select_rows(source_classes, classes)
        return {key: value[rows] if key in by_class else value for key, value in state.items()}


def scaled_cosines(clip: CLIP, image_features: Tensor, text_features: Tensor) -> Tensor:
    """(..., D), (C, D) unit rows -> (..., C) cosines times exp(logit scale), float32.

    Also where the towers run in half precision: features of stored images are float32 anyway, and
    a scale of 100 lets float16 gradients overflow under loss scaling, which costs steps.
    """
    with full_precision(image_features):
        scale = clip.logit_scale.float().exp()
        return scale * image_features.float() @ text_features.float().t()


def full_precision(tensor: Tensor) -> torch.autocast:
    """No autocast on the tensor's device."""
    return torch.autocast(tensor.device.type, enabled=False)


def cross_entropy_losses(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """(B, C) logits, (B,) labels -> mean cross-entropy "loss" and accuracy "acc" in percent."""
    return {
        "loss": F.cross_entropy(logits, labels),
        "acc": compute_accuracy(logits, labels)[0],
    }
