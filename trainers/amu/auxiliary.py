"""Auxiliary image encoders by name: a second, frozen network that reads the same pixels as CLIP.

``moco_v3_rn50`` (self-supervised ResNet-50, ``:100`` or ``:300`` epochs in place of 1000),
``timm:<model>``, ``dino_vits16``, ``dino_vitb16``, ``dinov2_vits14``, ``clip:<backbone>`` and
``toy`` (the toy world's label-trained encoder). Source of the MoCo layout: amu_tuning section 1.
"""

import logging
import urllib.error
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip import load_backbone
from dassl.config.pixels import IMAGENET_MEAN, IMAGENET_STD
from dassl.features.encoder import Encoder, NetworkEncoder
from dassl.utils import cache_dir, did_you_mean, download_url, load_checkpoint
from datasets.toy_world.nets import INPUT_SIZE, load_toy_net

logger = logging.getLogger(__name__)
MOCO_URL = "https://dl.fbaipublicfiles.com/moco-v3/r-50-{epochs}ep/r-50-{epochs}ep.pth.tar"
MOCO_EPOCHS = ("100", "300", "1000")
MOCO_PREFIX, MOCO_HEAD = "module.base_encoder.", "module.base_encoder.fc"
PROBE_SIZE = 224  # pixels of the image that tells a network's width; some take no smaller ones
DINO = {
    "dino_vits16": "vit_small_patch16_224.dino",
    "dino_vitb16": "vit_base_patch16_224.dino",
    "dinov2_vits14": "vit_small_patch14_dinov2.lvd142m",
}
TOY_DEFAULT = "aux_supervised"  # behind the name "toy"
SEE = "See DATASETS.md, section Auxiliary networks."
KNOWN = ("moco_v3_rn50", *DINO, "timm:<model>", "clip:<backbone>", "toy")


class AuxiliaryEncoder(NetworkEncoder):
    """A network that takes pixels of any size; a fixed input size is met by bicubic resizing.

    Args:
        network: maps (B, 3, H, W) to (B, D).
        mean: pixel mean, per channel.
        std: pixel deviation, per channel.
        name: what messages and folders call it.
        input_size: pixels; None: the network reads what it gets.
    """

    def __init__(
        self,
        network: nn.Module,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        name: str,
        input_size: int | None = None,
    ) -> None:
        network = network.eval().requires_grad_(False)
        side = input_size or PROBE_SIZE
        with torch.no_grad():
            width = network(torch.zeros(1, 3, side, side)).shape[-1]
        super().__init__(network, mean, std, name=name, dim=width)
        self.input_size = input_size

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

    def __init__(self, encoders: Sequence[AuxiliaryEncoder]) -> None:
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
        ValueError: for an unknown name.
        FileNotFoundError: if the weights are neither here nor to be had; says how to get them.
    """
    if weights and not Path(weights).is_file():
        raise FileNotFoundError(
            f"TRAINER.AMU.AUX_WEIGHTS: there is no file {weights}. Leave it empty to use the "
            f"published weights of {name}. {SEE}"
        )
    if "+" in name:
        if weights:
            raise ValueError(
                f"TRAINER.AMU.AUX_WEIGHTS names one file, TRAINER.AMU.AUX {name} joins several "
                "encoders. Leave AUX_WEIGHTS empty."
            )
        return JoinedEncoder([load_auxiliary(part.strip()) for part in name.split("+")])
    source, _, model = name.partition(":")
    if source == "moco_v3_rn50":
        return _moco_resnet50(model or "1000", weights)
    if name in DINO:
        return _timm(DINO[name], weights)
    if source == "timm" and model:
        return _timm(model, weights)
    if source == "clip" and model:
        return _clip_tower(weights or model)
    if source == "toy":
        model = model or TOY_DEFAULT
        network = load_toy_net(model, weights=weights)
        return AuxiliaryEncoder(
            network,
            IMAGENET_MEAN,
            IMAGENET_STD,
            name=f"toy-{model}",
            input_size=INPUT_SIZE,
        )
    raise ValueError(
        f"TRAINER.AMU.AUX is {name!r}, which is no known auxiliary encoder. "
        f"{did_you_mean(name, KNOWN)}"
    )


# --------------------------------------------------------------------- MoCo v3
def _moco_resnet50(epochs: str, weights: str) -> AuxiliaryEncoder:
    if epochs not in MOCO_EPOCHS:
        raise ValueError(
            f"TRAINER.AMU.AUX is moco_v3_rn50:{epochs}; there are weights of "
            f"{', '.join(MOCO_EPOCHS)} epochs."
        )
    path = Path(weights) if weights else moco_weights(epochs)
    network = resnet50_from_moco(load_checkpoint(str(path)), path)
    return AuxiliaryEncoder(network, IMAGENET_MEAN, IMAGENET_STD, name=f"moco-v3-rn50-{path.stem}")


def moco_weights(epochs: str = "1000") -> Path:
    """Path of a published MoCo v3 file in the cache; downloaded if it is not there.

    Raises:
        FileNotFoundError: if it cannot be downloaded; says where to get and put it.
    """
    url = MOCO_URL.format(epochs=epochs)
    path = cache_dir() / "weights" / url.rsplit("/", 1)[1]
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        download_url(url, path)
    except (urllib.error.URLError, OSError) as err:
        raise FileNotFoundError(
            f"The weights of the auxiliary encoder moco_v3_rn50 are not at {path}, and {url} "
            f"cannot be downloaded ({err}). Fetch that file on another machine and put it there, "
            "or name it: TRAINER.AMU.AUX_WEIGHTS PATH. Without network, TRAINER.AMU.AUX toy works. "
            f"{SEE}"
        ) from err
    return path


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

    state = checkpoint.get("state_dict", checkpoint)
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
            f"{path} is no MoCo v3 ResNet-50: expected {MOCO_PREFIX}<torchvision key> for "
            f"{len(wanted)} tensors; {len(missing)} are missing ({', '.join(missing[:3])}), "
            f"{len(unknown)} are unknown ({', '.join(unknown[:3])}). It begins with {found}."
        )
    network.load_state_dict(kept)
    return network.float()


# --------------------------------------------------------------------- timm and CLIP
def _timm(model: str, weights: str) -> AuxiliaryEncoder:
    import timm

    try:
        network = _timm_network(model, weights)
    except (RuntimeError, OSError, ValueError) as err:
        if not timm.is_model(model.split(".")[0]):
            close = timm.list_models(f"{model[:6]}*")[:5]
            raise ValueError(
                f"TRAINER.AMU.AUX is timm:{model}, which timm does not know. "
                f"Some of its names: {', '.join(close) or 'see timm.list_models()'}."
            ) from err
        if weights:
            raise ValueError(
                f"TRAINER.AMU.AUX_WEIGHTS {weights} holds no weights of timm:{model}: "
                f"{str(err)[:500]}"
            ) from err
        raise FileNotFoundError(
            f"The weights of timm:{model} cannot be had ({type(err).__name__}: {err}). Without "
            "network, put its file on this machine and name it: TRAINER.AMU.AUX_WEIGHTS PATH. "
            f"{SEE}"
        ) from err
    config = network.pretrained_cfg
    has_positions = getattr(network, "pos_embed", None) is not None
    is_fixed = has_positions or config.get("fixed_input_size", False)
    return AuxiliaryEncoder(
        network,
        tuple(config["mean"]),
        tuple(config["std"]),
        name=f"timm-{model}",
        input_size=config["input_size"][-1] if is_fixed else None,
    )


def _timm_network(model: str, weights: str) -> nn.Module:
    """A timm network without its head; a local file may hold one."""
    import timm

    if not weights:
        return timm.create_model(model, pretrained=True, num_classes=0)
    try:
        return timm.create_model(model, checkpoint_path=weights, num_classes=0)
    except RuntimeError:
        network = timm.create_model(model, checkpoint_path=weights)
        network.reset_classifier(0)
        return network


def _clip_tower(backbone: str) -> AuxiliaryEncoder:
    clip = load_backbone(backbone)
    return AuxiliaryEncoder(
        clip.visual,
        tuple(clip.image_mean),
        tuple(clip.image_std),
        name=f"clip-{clip.backbone_name}",
        input_size=clip.visual.input_resolution,
    )
