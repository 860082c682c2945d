"""The four stages that every CLIP classifier here consists of.

A method is an ``nn.Module`` that holds only its own parameters and buffers. The frozen backbone is
passed in by the caller and never stored, so that a checkpoint holds exactly what the method adds.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.model import CLIP, TowerHook
from dassl.engine.predictor import tempered_softmax
from dassl.metrics import compute_accuracy

State = dict[str, Tensor]  # of a checkpoint, by name
Names = Sequence[str]  # of classes, or their WordNet ids


class Method(nn.Module):
    """text features, image features, logits, loss; override the stages that change.

    ``forward`` chains them: images (B, 3, H, W) -> logits (B, C).

    A subclass declares how its checkpoints are read (``trainers/common/checkpoints.py``):

    Attributes:
        per_class: tensors with a row per class; a run of other classes takes the rows of its own.
        per_known_class: likewise, but a class that the file lacks keeps the row of this run.
        of_this_run: tensors that follow from this run's class names; those of a file are left out.
        official_prefix: before the method's tensors in official files, which hold a whole model.
    """

    per_class: tuple[str, ...] = ()
    per_known_class: tuple[str, ...] = ()
    of_this_run: tuple[str, ...] = ()
    official_prefix = ""

    @staticmethod
    def own_name(official: str) -> str:
        """The name here of a tensor in an official file, where it is another one."""
        return official

    def text_features(self, clip: CLIP) -> Tensor | None:
        """(C, D) unit rows. None where no image-independent class vectors exist (CoCoOp)."""
        raise TypeError(f"{type(self).__name__} defines no text_features(clip).")

    def image_hook(self) -> TowerHook | None:
        """What the method changes in the image tower's blocks; None: nothing."""
        return None

    def raw_image_features(self, clip: CLIP, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised pixels -> (B, D), before L2 normalisation."""
        return clip.encode_image(images.to(clip.dtype), hook=self.image_hook())

    def image_features(self, raw_image_features: Tensor) -> Tensor:
        """(B, D) raw features -> (B, D), unit rows."""
        return F.normalize(raw_image_features, dim=-1)

    def logits(self, clip: CLIP, image_features: Tensor, text_features: Any) -> Tensor:
        """(B, D), (C, D) of ``text_features(clip)`` -> (B, C) cosines times exp(logit scale)."""
        return scaled_cosines(clip, image_features, text_features)

    def probabilities(self, logits: Tensor, temperature: float) -> Tensor:
        """(B, C) of ``logits`` -> (B, C) rows of sum 1."""
        return tempered_softmax(logits, temperature)

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

    def exported(self, clip: CLIP) -> dict[str, Tensor]:
        """What a bundle keeps of this method: the tensors of ``trainers/common/bundle.py``.

        Override it together with ``image_features`` or ``logits``.
        """
        text_features = self.text_features(clip)
        if text_features is None:
            raise TypeError(f"{type(self).__name__} has no class vectors to export.")
        return {"weight": text_features, "scale": clip.logit_scale.exp()}

    def adapt_state(self, state: State, source: Names | None, classes: Names) -> State:
        """Change or refuse the tensors of a checkpoint where the declarations do not say enough.

        Args:
            state: tensors of the file, by the names of this module.
            source: what it was trained on, names or WordNet ids; None in foreign files.
            classes: the classes of this run, named likewise.
        """
        return state


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
