"""Encoders: frozen image networks, each with its own normalisation of pixels.

An encoder maps pixels in [0, 1] to raw features, before any L2 normalisation. Several encoders can
read the same pixels: CLIP's image tower, an auxiliary network, a frozen student.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dassl.config import check_value, one_of
from dassl.data.drawn import DrawnViews
from dassl.data.pixels import normalise, pixels_on
from dassl.modeling.compiled import is_compiled
from dassl.modeling.networks import DEFAULT_SIZE, evaluating, feature_width
from dassl.utils import weights_digest

AUTOCAST = {"amp": torch.float16, "bf16": torch.bfloat16}
PRECISIONS = ("fp32", *AUTOCAST)


class Encoder(ABC):
    """features = network((pixels - mean) / std), without gradient, in eval mode.

    The network is neither copied nor changed: it stays where it is (pixels follow it), and every
    call restores its training mode.

    Args:
        network: holds the weights.
        mean: per channel, of pixels in [0, 1].
        std: per channel.
        name: what messages and folders call it.
        size: side of the square input in pixels; None takes any size.
        dim: feature width D.
        precision: "fp32", or autocast on CUDA (ignored on a CPU): "amp" in fp16, "bf16".

    Attributes:
        digest: digest of the weights, hexadecimal.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        name: str,
        size: int | None,
        dim: int,
        precision: str = "fp32",
    ) -> None:
        check_value("precision", precision, one_of(*PRECISIONS))
        self.network = network
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        self.name, self.size, self.dim, self.precision = name, size, dim, precision
        self._digest = ""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalised -> (B, D)."""

    def weights(self) -> nn.Module:
        """The module whose weights the features depend on."""
        return self.network

    @property
    def digest(self) -> str:
        """SHA-256 of the weights, computed once: an encoder is frozen."""
        if not self._digest:
            self._digest = weights_digest(self.weights())
        return self._digest

    @property
    def key(self) -> str:
        """Digest of all that turns pixels into features: weights, normalisation, precision."""
        dtype = str(next((p.dtype for p in self.weights().parameters()), torch.float32))
        computed_in = self.precision if self._casts else dtype
        parts = [self.digest, self.mean, self.std, self.dim, computed_in]
        if self._rounds_products:
            parts.append("tf32")
        if is_compiled(self.weights()):
            parts.append("compiled")  # TRAIN.COMPILE: other roundings
        if self.device.type == "cuda" and not torch.backends.cudnn.allow_tf32:
            parts.append("full convolutions")  # torch rounds them by default
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def _casts(self) -> bool:
        return self.precision in AUTOCAST and self.device.type == "cuda"

    @property
    def _rounds_products(self) -> bool:
        """Whether matrix products of float32 are rounded to TF32: such rows are not float32's."""
        is_full = torch.get_float32_matmul_precision() == "highest"
        return self.device.type == "cuda" and not is_full

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next((p.device for p in self.weights().parameters()), torch.device("cpu"))

    def to(self, device: torch.device | str) -> "Encoder":
        """Move the network; its weights are digested before they leave the CPU."""
        if torch.device(device).type != self.device.type:
            _ = self.digest
        self.network.to(device)
        return self

    @torch.no_grad()
    def __call__(self, pixels: Tensor | DrawnViews) -> Tensor:
        """Encode a batch.

        Args:
            pixels: (B, 3, H, W), uint8 in 0..255 or float in [0, 1], not normalised, on any device;
                or drawn views.

        Returns:
            (B, D) raw features, float32, on the encoder's device.

        Raises:
            ValueError: if the pixels are not an RGB batch of the encoder's size.
        """
        self._check(pixels)
        return self.encode(normalise(pixels_on(self.device, pixels), self.mean, self.std))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised pixels -> (B, D) raw features, float32; see ``__call__``."""
        device = self.device
        dtype = AUTOCAST.get(self.precision, torch.float16)
        with evaluating(self.network), torch.autocast(device.type, dtype, enabled=self._casts):
            return self.forward(images.to(device)).float()

    def _check(self, pixels: Tensor | DrawnViews) -> None:
        side = self.size
        is_batch = len(pixels.shape) == 4 and pixels.shape[1] == 3
        if not is_batch or (side is not None and tuple(pixels.shape[2:]) != (side, side)):
            wanted = "H, W" if side is None else f"{side}, {side}"
            raise ValueError(
                f"The encoder {self.name} reads pixels (B, 3, {wanted}); given "
                f"{tuple(pixels.shape)}."
            )


class NetworkEncoder(Encoder):
    """Any torch module that maps images to features (B, D): torchvision, timm, a student.

    Args:
        network: maps (B, 3, H, W) to (B, D).
        mean: pixel mean, per channel.
        std: pixel deviation, per channel.
        name: what messages and folders call it.
        size: side of the square input in pixels; None takes any size.
        dim: feature width; None asks the network, with one black image.
        precision: see ``Encoder``.
    """

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        name: str = "",
        size: int | None = None,
        dim: int | None = None,
        precision: str = "fp32",
    ) -> None:
        super().__init__(
            network,
            mean=mean,
            std=std,
            name=name or type(network).__name__,
            size=size,
            dim=feature_width(network, size or DEFAULT_SIZE) if dim is None else dim,
            precision=precision,
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalised -> (B, D)."""
        return self.network(images.to(next(self.network.parameters()).dtype))
