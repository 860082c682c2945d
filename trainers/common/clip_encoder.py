"""CLIP's image tower as an encoder of the feature bank."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from clip.model import CLIP
from dassl.features.encoder import Encoder
from dassl.features.views import Augmentation


def backbone_input(clip: CLIP) -> dict[str, Any]:
    """Keys of INPUT as a backbone was trained; nothing else says how its images are prepared."""
    side = clip.visual.input_resolution
    return {
        "SIZE": (side, side),
        "PIXEL_MEAN": clip.image_mean,
        "PIXEL_STD": clip.image_std,
        "INTERPOLATION": clip.image_interpolation,
        "RESIZE": clip.image_resize,
    }


def backbone_view(clip: CLIP) -> Augmentation:
    """The test view that a backbone was made for (and the same as training views)."""
    settings = backbone_input(clip)
    return Augmentation.from_input(settings.pop("SIZE")[0], **settings)


class ClipEncoder(Encoder):
    """CLIP's image tower.

    Args:
        clip: a backbone (``clip.load_backbone``).
        mean: pixel mean; default: the backbone's own.
        std: pixel deviation; default: the backbone's own.
        precision: see ``Encoder``.
        digest: of the image tower's weights, where it is known.
    """

    network: CLIP

    def __init__(
        self,
        clip: CLIP,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        precision: str = "fp32",
        digest: str = "",
    ) -> None:
        super().__init__(
            clip,
            mean=clip.image_mean if mean is None else mean,
            std=clip.image_std if std is None else std,
            name=f"clip-{clip.backbone_name or 'unnamed'}",
            size=clip.visual.input_resolution,
            dim=clip.visual.output_dim,
            precision=precision,
        )
        self._digest = digest

    def weights(self) -> nn.Module:
        """The image tower alone: changes of the text tower leave stored features valid."""
        visual = self.network.visual
        return visual if isinstance(visual, nn.Module) else self.network

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalised -> (B, D)."""
        return self.network.encode_image(images)
