"""Students: image networks without a classifier, by name.

``torchvision:<model>``, ``timm:<model>.<tag>``, ``clip:<backbone>``, ``toy:student``, and the short
names of the published runs (``SHORT_NAMES``). The weight tag of a timm model is never left to
timm's default: the bare name ``vit_base_patch16_224`` selects other weights than the published
runs used.
"""

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from clip import load_backbone
from clip.blocks import BlockView, QuickGELU, TowerHook
from clip.vision import ModifiedResNet, VisionTransformer
from dassl.data.seeding import seeded
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
TORCHVISION_HEADS = ("fc", "classifier", "heads", "head")
# attributes of networks whose positions are tied to one image size
FIXED_SIZE_MARKS = ("pos_embed", "positional_embedding", "attnpool", "relative_position_bias_table")
DEFAULT_SIZE = 224  # pixels; the input of every published student


class Student(nn.Module):
    """S: images (B, 3, H, W), normalised -> features (B, n), not normalised.

    BatchNorm statistics never change, also in training mode, unless ``freeze_bn`` is False; the
    affine weights of BatchNorm are trained like all others.

    Args:
        network: returns (B, n).
        width: n.
        name: full name, as "timm:<model>.<tag>".
        input_size: pixels.
        freeze_bn: keep every BatchNorm in eval mode.
    """

    def __init__(
        self,
        network: nn.Module,
        width: int,
        *,
        name: str = "",
        input_size: int = DEFAULT_SIZE,
        freeze_bn: bool = True,
    ) -> None:
        super().__init__()
        self.network = network
        self.width = width
        self.name = name
        self.input_size = input_size
        self.freeze_bn = freeze_bn
        self.train(network.training)  # BatchNorm is frozen from the start

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    @property
    def takes_any_size(self) -> bool:
        """Whether the network reads images of other sizes than ``input_size``."""
        return not any(hasattr(self.network, name) for name in FIXED_SIZE_MARKS)

    @property
    def _batchnorms(self) -> list[nn.Module]:
        kind = nn.modules.batchnorm._BatchNorm
        return [module for module in self.modules() if isinstance(module, kind)]

    @property
    def has_moving_statistics(self) -> bool:
        """Whether training mode changes BatchNorm statistics."""
        return not self.freeze_bn and bool(self._batchnorms)

    def train(self, mode: bool = True) -> "Student":
        super().train(mode)
        if self.freeze_bn:
            for module in self._batchnorms:
                module.eval()
        return self

    def taps(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features (B, n) and the outputs of the tapped modules, in order of depth.

        Maps are (B, C, H, W), tokens (B, L, W) or (L, B, W): channels in dimension 1 or last.

        Raises:
            ValueError: if nobody has said where this architecture is tapped.
        """
        return tap_outputs(self.network, images, self.name)


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


def build_student(
    name: str,
    *,
    pretrained: bool = True,
    weights: str = "",
    freeze_bn: bool = True,
    input_size: int = 0,
) -> Student:
    """Build a student by name, with every parameter trainable.

    Args:
        name: a short or full name.
        pretrained: False asks for random initialisation (MODEL.BACKBONE.PRETRAINED).
        weights: a local weight file in place of the published download.
        freeze_bn: see ``Student``.
        input_size: pixels, for networks that take several sizes; 0 is the network's own.

    Raises:
        ValueError: for an unknown name.
        FileNotFoundError: if the weights are neither here nor to be had, saying how to get them.
    """
    name = full_name(name)
    source, model = name.split(":", 1)
    if weights and not Path(weights).is_file():
        raise FileNotFoundError(f"MODEL.BACKBONE.WEIGHTS: there is no file {weights}.")
    build = {"torchvision": _torchvision, "timm": _timm, "clip": _clip, "toy": _toy}[source]
    network, width, size = build(model, pretrained, weights)
    student = Student(
        network.requires_grad_(True),
        width,
        name=name,
        input_size=input_size or size,
        freeze_bn=freeze_bn,
    )
    return student.float()


def empty_student(
    name: str, state: Mapping[str, Tensor], *, input_size: int, tower: Mapping | None = None
) -> Student:
    """The architecture of a student, for weights that are at hand; nothing is downloaded.

    Args:
        name: full name.
        state: weights of the network; a CLIP tower's shape is read from them.
        input_size: pixels.
        tower: ``tower_options`` of the network; None where a file does not tell them, for which an
            open_clip tower must be loaded with its original weights.
    """
    source, _, model = name.partition(":")
    if source != "clip":
        return build_student(name, pretrained=False, input_size=input_size)
    if tower is None and model.startswith("open_clip:"):
        network = copy.deepcopy(load_backbone(model, precision="fp32").visual)
    else:
        network = tower_like(state, input_size, **(tower or {}))
    return Student(network, network.output_dim, name=name, input_size=input_size).float()


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


def _missing(name: str, where: str, error: Exception) -> FileNotFoundError:
    return FileNotFoundError(
        f"The pre-trained weights of the student {name} are not here and could not be downloaded "
        f"({type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}). "
        f"Source: {where}. Either run once with network access, or fetch the file elsewhere and "
        "set MODEL.BACKBONE.WEIGHTS to its path, or ask for random initialisation with "
        "MODEL.BACKBONE.PRETRAINED False (its results mean nothing beside published ones). See "
        "DATASETS.md, section Students and teachers."
    )


def _torchvision(model: str, pretrained: bool, weights: str) -> tuple[nn.Module, int, int]:
    from torchvision import models

    if model not in models.list_models(module=models):
        known = models.list_models(module=models)
        raise ValueError(
            f'torchvision has no classification model "{model}". {did_you_mean(model, known)}'
        )
    entry = "IMAGENET1K_V1" if pretrained and not weights else None
    try:
        network = models.get_model(model, weights=entry)
    except OSError as error:
        url = models.get_model_weights(model)["IMAGENET1K_V1"].url
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise _missing(f"torchvision:{model}", f"{url} -> {folder}", error) from error
    if weights:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        try:
            network.load_state_dict(state)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise _misfit(f"torchvision:{model}", weights, str(error)) from error
    head = next((name for name in TORCHVISION_HEADS if hasattr(network, name)), None)
    if head is None:
        raise ValueError(
            f"torchvision:{model} has no classifier under the names {', '.join(TORCHVISION_HEADS)}."
        )
    setattr(network, head, nn.Identity())
    if getattr(network, "aux_logits", False):
        raise ValueError(
            f"torchvision:{model} returns auxiliary logits besides its features while it trains, "
            "so that it cannot be a student. Take the model of that name from timm."
        )
    return network, _probe_width(network, DEFAULT_SIZE), DEFAULT_SIZE


def _timm(model: str, pretrained: bool, weights: str) -> tuple[nn.Module, int, int]:
    import timm

    architecture, _, tag = model.partition(".")
    if architecture not in timm.list_models():
        close = did_you_mean(architecture, timm.list_models())
        raise ValueError(f'timm has no model "{architecture}". {close}')
    tags = timm.list_pretrained(f"{architecture}.*") or timm.list_pretrained(architecture)
    if model not in tags and (pretrained or tag) and not weights:
        raise ValueError(
            f"timm:{model} needs a weight tag: timm's default for a bare name changes between "
            f"versions. Known: {', '.join(f'timm:{known}' for known in tags) or 'none'}."
        )
    overlay = {"file": weights, "hf_hub_id": None, "url": ""} if weights else None
    try:
        with seeded(0) if weights else nullcontext():  # see _check_all_loaded
            network = timm.create_model(
                model,
                pretrained=pretrained or bool(weights),
                num_classes=0,
                pretrained_cfg_overlay=overlay,
            )
    except (OSError, RuntimeError) as error:
        if weights or not pretrained:
            raise
        hub = f"https://huggingface.co/timm/{model} -> the Hugging Face cache (HF_HOME)"
        raise _missing(f"timm:{model}", hub, error) from error
    if weights:
        with seeded(0):
            untrained = timm.create_model(model, pretrained=False, num_classes=0)
        _check_all_loaded(network, untrained, f"timm:{model}", weights)
    size = network.default_cfg["input_size"][-1]
    # what comes out is asked for: timm's num_features counts the width before a hidden head layer
    return network, _probe_width(network, size), size


def _check_all_loaded(network: nn.Module, untrained: nn.Module, name: str, weights: str) -> None:
    """ValueError if a weight still has its random initial value.

    timm reads a file without complaint when not one of its entries belongs to the model.
    """
    initial = dict(untrained.named_parameters())
    left = [
        key
        for key, value in network.named_parameters()
        if value.unique().numel() > 1 and torch.equal(value, initial[key])
    ]
    if left:
        raise _misfit(name, weights, f"it has no {', '.join(left[:5])}.")


def _misfit(name: str, weights: str, why: str) -> ValueError:
    return ValueError(
        f"MODEL.BACKBONE.WEIGHTS {weights} holds no weights of the student {name}: {why[:500]}"
    )


def _clip(model: str, pretrained: bool, weights: str) -> tuple[nn.Module, int, int]:
    if not pretrained:
        raise ValueError(
            f"MODEL.BACKBONE.PRETRAINED is False, but the student clip:{model} is by definition a "
            "copy of CLIP's image tower. Use a timm: or torchvision: student to start at random."
        )
    tower = load_backbone(weights or model, precision="fp32").visual
    if not isinstance(tower, nn.Module):
        raise ValueError(
            f"The student clip:{model} has no image tower of CLIP's layout, so that it cannot be "
            "trained here. Take it from timm, or another CLIP."
        )
    return copy.deepcopy(tower), tower.output_dim, tower.input_resolution


def _toy(model: str, pretrained: bool, weights: str) -> tuple[nn.Module, int, int]:
    from trainers.common.toy_nets import load_toy_net

    network = load_toy_net(model, pretrained=pretrained, weights=weights)
    return network, network.width, network.input_size


@torch.no_grad()
def _probe_width(network: nn.Module, size: int) -> int:
    """n of the features (B, n); ValueError if a network without its head gives another shape."""
    was_training = network.training
    features = network.eval()(torch.zeros(1, 3, size, size))
    network.train(was_training)
    if not isinstance(features, Tensor) or features.ndim != 2:
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(
            f"{type(network).__name__} without its classifier gives {shape} for one image, not one "
            "row of features, so that it cannot be a student. Take such a model from timm."
        )
    return features.shape[1]


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
