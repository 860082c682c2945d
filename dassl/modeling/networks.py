"""Students: image networks without a classifier, by name.

``torchvision:<model>``, ``timm:<model>.<tag>``, ``clip:<backbone>``, ``toy:student``, and the short
names of the published runs (``SHORT_NAMES``). The weight tag of a timm model is never left to
timm's default: the bare name ``vit_base_patch16_224`` selects other weights than the published
runs used.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from clip.blocks import BlockView, QuickGELU, TowerHook
from clip.vision import ModifiedResNet, VisionTransformer
from dassl.utils import did_you_mean

SHORT_NAMES = {
    "rn50": "torchvision:resnet50",
    "vitb": "timm:vit_base_patch16_224.augreg_in21k_ft_in1k",
    "vits": "timm:vit_small_patch16_224.augreg_in21k_ft_in1k",
    "deits": "timm:deit_small_distilled_patch16_224.fb_in1k",
    "deitb": "timm:deit_base_distilled_patch16_224.fb_in1k",
    "toy": "toy:student",
}
HEAD_WIDTH = 64  # of every attention head in OpenAI's towers
ACTIVATIONS = {kind.__name__: kind for kind in (QuickGELU, nn.GELU)}  # of CLIP's towers
SOURCES = ("torchvision", "timm", "clip", "toy")


def full_name(name: str) -> str:
    """The full name behind a short one; ValueError for an unknown one."""
    name = SHORT_NAMES.get(name, name)
    source, _, model = name.partition(":")
    if source not in SOURCES or not model:
        known = [*SHORT_NAMES, "torchvision:<model>", "timm:<model>.<tag>", "clip:<backbone>"]
        raise ValueError(
            f'MODEL.BACKBONE.NAME is "{name}", which is no known student. '
            f"{did_you_mean(name, known)}"
        )
    return name


def tower_options(network: nn.Module) -> dict[str, int | str]:
    """What the weights of a CLIP tower do not tell: heads and activation; {} for other networks."""
    if isinstance(network, VisionTransformer):
        block = network.transformer.resblocks[0]
        return {"heads": block.attn.heads, "activation": type(block.mlp.gelu).__name__}
    return {"heads": network.attnpool.num_heads} if isinstance(network, ModifiedResNet) else {}


def tower_like(
    state: Mapping[str, Tensor], input_size: int, *, heads: int = 0, activation: str = "QuickGELU"
) -> nn.Module:
    """An untrained CLIP image tower with the shapes of ``state``; 0 heads: as many as OpenAI's."""
    if "class_embedding" in state:
        width, _, patch, _ = state["conv1.weight"].shape
        depth = sum(key.endswith(".ln_1.weight") for key in state)
        return VisionTransformer(
            input_size,
            patch,
            width,
            depth,
            heads or width // HEAD_WIDTH,
            state["proj"].shape[1],
            activation=ACTIVATIONS[activation],
        )
    depths = [
        len({key.split(".")[1] for key in state if key.startswith(f"layer{stage}.")})
        for stage in range(1, 5)
    ]
    width = state["conv3.weight"].shape[0]
    dimension = state["attnpool.c_proj.weight"].shape[0]
    return ModifiedResNet(depths, dimension, heads or width * 32 // HEAD_WIDTH, input_size, width)


def _tap_modules(network: nn.Module) -> list[str]:
    """Names of the modules whose outputs are tapped (specification of MIRO)."""
    names = {name for name, _ in network.named_modules()}
    stages = ["layer1", "layer2", "layer3", "layer4"]
    if hasattr(network, "dist_token") or not names:
        return []
    if names.issuperset(stages):
        stem = "avgpool" if hasattr(network, "attnpool") else "maxpool"
        return [stem, *stages] if stem in names else stages
    if hasattr(network, "blocks"):
        return [f"blocks.{i}" for i in _tap_depths(len(network.blocks))]
    return []


def _tap_depths(depth: int) -> list[int]:
    """Blocks 2, 5, 8, 11 of twelve; the same fractions of another depth."""
    return sorted({max(depth * k // 4 - 1, 0) for k in range(1, 5)})


class _TokenTaps(TowerHook):
    """Keeps what some blocks of a CLIP tower return, with all their tokens."""

    all_rows = True

    def __init__(self, depths: list[int]) -> None:
        self.depths = depths
        self.outputs: list[Tensor] = []

    def block(self, i: int, block: BlockView, x: Tensor) -> Tensor:
        x = block(x)
        if i in self.depths:
            self.outputs.append(x)
        return x


def tap_outputs(network: nn.Module, images: Tensor, name: str) -> tuple[Tensor, list[Tensor]]:
    """Features and tapped activations of one forward pass; see ``Student.taps``."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, args: tuple, output: Tensor) -> None:
        outputs.append(output)

    is_clip_vit = hasattr(network, "class_embedding")
    modules = ["conv1"] if is_clip_vit else _tap_modules(network)
    if not modules:
        raise ValueError(
            f"{name or type(network).__name__} has no known taps. MIRO works with ResNets, timm "
            "ViTs (not the distilled DeiTs) and CLIP image towers."
        )
    handles = [network.get_submodule(module).register_forward_hook(keep) for module in modules]
    try:
        if is_clip_vit:
            hook = _TokenTaps(_tap_depths(network.transformer.layers))
            return network(images, hook=hook), outputs + hook.outputs
        return network(images), outputs
    finally:
        for handle in handles:
            handle.remove()
