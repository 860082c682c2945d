"""Auxiliary image encoders by name: a second, frozen network that reads the same pixels as CLIP.

``moco_v3_rn50`` (self-supervised ResNet-50, ``:100`` or ``:300`` epochs in place of 1000), the
short names of ``SHORT_NAMES``, and every image network by name (dassl/modeling/networks.py); names
joined by ``+`` are read side by side. Source of the MoCo layout: amu_tuning section 1.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from dassl.engine.needed import Without
from dassl.features.encoder import Encoder, NetworkEncoder
from dassl.modeling.networks import (
    ImageNetwork,
    Source,
    build_network,
    register_source,
    takes_any_size,
)
from dassl.utils import cache_dir, did_you_mean, download_url, load_checkpoint
from dassl.utils.checkpoint import state_of
from dassl.utils.digests import DigestRecord

SEE = "See DATASETS.md, section Auxiliary networks."
GET = "python tools/get_data.py moco_v3"
MOCO = "moco_v3_rn50"
MOCO_URL = "https://dl.fbaipublicfiles.com/moco-v3/r-50-{epochs}ep/r-50-{epochs}ep.pth.tar"
MOCO_EPOCHS = ("100", "300", "1000")
MOCO_PREFIX, MOCO_HEAD = "base_encoder.", "base_encoder.fc"  # below "module."
SHORT_NAMES = {
    MOCO: f"{MOCO}:1000",
    "dino_vits16": "timm:vit_small_patch16_224.dino",
    "dino_vitb16": "timm:vit_base_patch16_224.dino",
    "dinov2_vits14": "timm:vit_small_patch14_dinov2.lvd142m",
    "toy": "toy:aux_supervised",  # the toy world's label-trained encoder
}
EXAMPLES = (*SHORT_NAMES, "timm:<model>.<tag>", "torchvision:<model>", "clip:<backbone>")


class AuxiliaryEncoder(NetworkEncoder):
    """A network that takes pixels of any size; a fixed input size is met by bicubic resizing."""

    def __init__(self, network: ImageNetwork) -> None:
        module = network.module.eval().requires_grad_(False)
        super().__init__(
            module, network.mean, network.std, name=_folder_name(network.name), dim=network.width
        )
        self.input_size = None if takes_any_size(module) else network.input_size

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalised -> (B, D)."""
        side = self.input_size
        if side is not None and tuple(images.shape[-2:]) != (side, side):
            images = F.interpolate(images, (side, side), mode="bicubic", antialias=True)
        return super().forward(images)


class JoinedEncoder(Encoder):
    """Unit features of several auxiliary encoders side by side, each with its own normalisation.

    Args:
        encoders: at least two.
    """

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        super().__init__(
            nn.ModuleList(encoder.network for encoder in encoders),
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            name="+".join(encoder.name for encoder in encoders),
            size=None,
            dim=sum(encoder.dim for encoder in encoders),
        )
        self.encoders = tuple(encoders)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, sum of the widths)."""
        return torch.cat([F.normalize(each(images), dim=-1) for each in self.encoders], dim=1)


@lru_cache(maxsize=2)
def load_auxiliary(name: str, weights: str = "") -> Encoder:
    """An auxiliary encoder by name; it is frozen, so the last ones are kept and shared.

    Args:
        name: see the module's text (TRAINER.AMU.AUX).
        weights: a local file in place of the published download (TRAINER.AMU.AUX_WEIGHTS).

    Raises:
        ValueError: for an unknown name, or weights that do not fit.
        FileNotFoundError: if the weights could not be loaded; says how to get them.
    """
    if weights and not Path(weights).is_file():
        raise FileNotFoundError(
            f"TRAINER.AMU.AUX_WEIGHTS: no such file: {weights}. Leave it empty to use the "
            f"published weights of {name}. {SEE}"
        )
    if "+" not in name:
        full = SHORT_NAMES.get(name, name)
        if ":" not in full:
            raise ValueError(
                f"Unknown auxiliary encoder {name!r} (TRAINER.AMU.AUX). "
                f"{did_you_mean(name, EXAMPLES)}"
            )
        network = build_network(full, weights=weights, key="TRAINER.AMU.AUX_WEIGHTS")
        return AuxiliaryEncoder(network)
    if weights:
        raise ValueError(
            f"TRAINER.AMU.AUX_WEIGHTS names one file, TRAINER.AMU.AUX {name} joins several "
            "encoders. Leave AUX_WEIGHTS empty."
        )
    return JoinedEncoder([load_auxiliary(part.strip()) for part in name.split("+")])


def _folder_name(name: str) -> str:
    return name.replace(":", "-").replace("/", "-")


# --------------------------------------------------------------------- MoCo v3
def _moco_resnet50(epochs: str, pretrained: bool, weights: str) -> ImageNetwork:
    if epochs not in MOCO_EPOCHS:
        raise ValueError(
            f"TRAINER.AMU.AUX is {MOCO}:{epochs}; there are weights of {', '.join(MOCO_EPOCHS)} "
            "epochs."
        )
    path = Path(weights) if weights else moco_weights(epochs)
    return ImageNetwork(resnet50_from_moco(load_checkpoint(str(path)), path), 2048)


def moco_place(epochs: str) -> Path:
    """Where the published file of so many epochs is kept."""
    return cache_dir() / "weights" / MOCO_URL.format(epochs=epochs).rsplit("/", 1)[1]


def moco_weights(epochs: str = "1000") -> Path:
    """Path of a published MoCo v3 file in the cache; downloaded if it is not there.

    Raises:
        FileNotFoundError: if it cannot be downloaded; says where to get and put it.
        OSError: if it is another file than the first one there.
    """
    url, path = MOCO_URL.format(epochs=epochs), moco_place(epochs)
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            download_url(url, path)
    except OSError as err:
        raise FileNotFoundError(
            f"The weights of the auxiliary encoder moco_v3_rn50 are not at {path}, and {url} "
            f"cannot be downloaded ({err}). Fetch that file on another machine "
            f"(its 1000 epochs: {GET}) and put it there, or name it: TRAINER.AMU.AUX_WEIGHTS PATH. "
            f"Without network, TRAINER.AMU.AUX toy works. {SEE}"
        ) from err
    DigestRecord(path.parent).check(path, url)
    return path


def without_moco(cfg: CfgNode) -> list[Without]:
    """The run's own CLIP as second network, where MoCo's weights have not been downloaded."""
    node = cfg.TRAINER.AMU
    name, _, epochs = SHORT_NAMES.get(node.AUX, node.AUX).partition(":")
    if name != MOCO or node.AUX_WEIGHTS or moco_place(epochs).is_file():
        return []
    own = f"clip:{cfg.MODEL.BACKBONE.NAME}"
    said = (
        f"The auxiliary network {node.AUX} is not at {moco_place(epochs)}: the image tower of the "
        f"backbone is taken in its place (TRAINER.AMU.AUX {own}). To download the published one: "
        f"TRAINER.AMU.AUX {node.AUX}"
    )
    return [Without("TRAINER.AMU.AUX", own, said, ("TRAINER.AMU.AUX_WEIGHTS",))]


def resnet50_from_moco(checkpoint: dict, path: Path | str = "given") -> nn.Module:
    """The ResNet-50 in a MoCo v3 checkpoint, its projector replaced by the identity: (B, 2048).

    Args:
        checkpoint: ``state_dict`` with ``module.base_encoder.<torchvision key>``; the projector
            (``fc``), the momentum encoder and the predictor are dropped.
        path: of the file, for errors.

    Raises:
        ValueError: if the file has another layout, or lacks tensors.
    """
    from torchvision.models import resnet50

    state = state_of(checkpoint)
    kept = {
        key.removeprefix(MOCO_PREFIX): value
        for key, value in state.items()
        if key.startswith(MOCO_PREFIX) and not key.startswith(MOCO_HEAD)
    }
    network = resnet50(weights=None)
    network.fc = nn.Identity()
    wanted = set(network.state_dict())
    missing, unknown = sorted(wanted - set(kept)), sorted(set(kept) - wanted)
    if missing or unknown:
        found = ", ".join(list(state)[:3]) or "nothing"
        raise ValueError(
            f"{path} is not a MoCo v3 ResNet-50: expected module.{MOCO_PREFIX}<torchvision key> "
            f"for {len(wanted)} tensors; {len(missing)} are missing ({', '.join(missing[:3])}), "
            f"{len(unknown)} are unknown ({', '.join(unknown[:3])}). It begins with {found}."
        )
    network.load_state_dict(kept)
    return network.float()


register_source(MOCO, Source(_moco_resnet50, f"{MOCO}:<epochs>"))
