"""CLIP's image towers and the toy world's networks among the image networks by name."""

import copy
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from clip import load_backbone
from clip.activation import split_activation
from clip.archive import is_script_archive
from clip.blocks import QuickGELU
from clip.model import HEAD_DIM, HEAD_DIMS
from clip.vision import ModifiedResNet, VisionTransformer
from dassl.modeling.networks import ImageNetwork, Source, register_source
from dassl.utils.files import FORMATS
from datasets.toy_world.nets import load_toy_net

ACTIVATIONS = {kind.__name__: kind for kind in (QuickGELU, nn.GELU)}  # of CLIP's towers


def tower_options(network: nn.Module) -> dict[str, Any]:
    """What the weights of a CLIP tower do not show: heads and activation."""
    if isinstance(network, VisionTransformer):
        block = network.transformer.block(0)
        return {"heads": block.attn.heads, "activation": type(block.mlp.gelu).__name__}
    return {"heads": network.attnpool.num_heads} if isinstance(network, ModifiedResNet) else {}


def tower_like(
    state: Mapping[str, Tensor], input_size: int, *, heads: int = 0, activation: str = "QuickGELU"
) -> VisionTransformer | ModifiedResNet:
    """An untrained CLIP image tower with the shapes of ``state``; 0 heads: as CLIP has."""
    if "class_embedding" in state:
        width, _, patch, _ = state["conv1.weight"].shape
        depth = sum(key.endswith(".ln_1.weight") for key in state)
        return VisionTransformer(
            input_size,
            patch,
            width,
            depth,
            heads or width // HEAD_DIMS.get(width, HEAD_DIM),
            state["proj"].shape[1],
            activation=ACTIVATIONS[activation],
        )
    depths = [
        len({key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")})
        for stage in range(1, 5)
    ]
    width = state["conv3.weight"].shape[0]
    dimension = state["attnpool.c_proj.weight"].shape[0]
    return ModifiedResNet(depths, dimension, heads or width * 32 // HEAD_DIM, input_size, width)


def _clip(model: str, pretrained: bool, weights: str) -> ImageNetwork:
    if not pretrained:
        raise ValueError(
            f"MODEL.BACKBONE.PRETRAINED is False, but clip:{model} is by definition a copy of "
            "CLIP's image tower. Use a timm: or torchvision: network to start at random."
        )
    place, activation = split_activation(model)
    clip = load_backbone(weights or place, precision="fp32", activation=activation)
    tower = clip.visual
    if not isinstance(tower, (VisionTransformer, ModifiedResNet)):
        raise ValueError(
            f"clip:{model} has no image tower of CLIP's layout, so that it cannot be trained here. "
            "Take it from timm, or another CLIP."
        )
    return _tower(copy.deepcopy(tower), mean=clip.image_mean, std=clip.image_std)


def _empty_clip(
    model: str, state: Mapping[str, Tensor], input_size: int, options: Mapping | None
) -> ImageNetwork:
    """For ``options`` None (a file without them) an open_clip tower loads its own."""
    if options is None and model.startswith("open_clip:"):
        return _clip(model, True, "")
    return _tower(tower_like(state, input_size, **(options or {})))


def _tower(tower: Any, **statistics: Any) -> ImageNetwork:
    return ImageNetwork(tower, tower.output_dim, tower.input_resolution, **statistics)


def _script_format(path: Path) -> str:
    """That a file is TorchScript, which a CLIP alone is read from; "" for any other."""
    try:
        is_script = is_script_archive(path)
    except (OSError, ValueError, zipfile.BadZipFile):
        return ""
    what = "is a TorchScript archive, as OpenAI publishes CLIP: take it as a backbone, or as clip:"
    return f"{what}{path}" if is_script else ""


def _toy(model: str, pretrained: bool, weights: str) -> ImageNetwork:
    network = load_toy_net(model, pretrained=pretrained, weights=weights)
    return ImageNetwork(network, network.width, network.input_size)


register_source("clip", Source(_clip, "clip:<backbone>", tower_options, _empty_clip))
register_source("toy", Source(_toy, "toy:<name>"))
FORMATS.append(_script_format)
