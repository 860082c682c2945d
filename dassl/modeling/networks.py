"""Image networks by name, without their classifier.

A name is ``<source>:<model>``: ``torchvision:<model>``, ``timm:<model>.<tag>``, and what other
packages register (``register_source``); ``SHORT_NAMES`` are those of published runs. The weight tag
of a timm model is never left to timm's default: the bare name ``vit_base_patch16_224`` selects
other weights than the published runs used.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dassl.config.pixels import IMAGENET_MEAN, IMAGENET_STD
from dassl.data.seeding import seeded
from dassl.utils import did_you_mean, read_tensors
from dassl.utils.checkpoint import tensors_only

SHORT_NAMES = {
    "rn50": "torchvision:resnet50",
    "vitb": "timm:vit_base_patch16_224.augreg_in21k_ft_in1k",
    "vits": "timm:vit_small_patch16_224.augreg_in21k_ft_in1k",
    "deits": "timm:deit_small_distilled_patch16_224.fb_in1k",
    "deitb": "timm:deit_base_distilled_patch16_224.fb_in1k",
    "toy": "toy:student",
}
DEFAULT_SIZE = 224  # pixels
_HEADS = ("fc", "classifier", "heads", "head")  # attributes that hold torchvision's classifiers
# attributes of networks whose positions are tied to one image size
_FIXED_SIZE_MARKS = (
    "pos_embed",
    "positional_embedding",
    "attnpool",
    "relative_position_bias_table",
)


@dataclass
class ImageNetwork:
    """A network without its classifier: normalised images (B, 3, H, W) -> features (B, n).

    Attributes:
        module: the network, float32, every parameter trainable.
        width: n.
        input_size: side of the square input in pixels.
        mean, std: per channel, of pixels in [0, 1]: the statistics of its weights.
        name: full name, as "timm:<model>.<tag>".
    """

    module: nn.Module
    width: int
    input_size: int = DEFAULT_SIZE
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    name: str = ""


@dataclass(frozen=True)
class Source:
    """Where networks come from.

    Attributes:
        build: (model, pretrained, weights file or "") -> the network; loads a given weights file.
        example: how a name is written, for messages.
        options: what a network's weights do not show, to be kept beside them.
        empty: (model, state, input size, options) -> the untrained architecture for given
            weights; None: ``build`` without pre-trained weights.
    """

    build: Callable[[str, bool, str], ImageNetwork]
    example: str
    options: Callable[[nn.Module], dict[str, Any]] = lambda network: {}
    empty: Callable[[str, Mapping[str, Tensor], int, Mapping | None], ImageNetwork] | None = None


SOURCES: dict[str, Source] = {}


def register_source(prefix: str, source: Source) -> None:
    """Add the names ``<prefix>:<model>``."""
    SOURCES[prefix] = source


def full_name(name: str, *, key: str = "MODEL.BACKBONE.NAME") -> str:
    """The full form of a name.

    Raises:
        ValueError: for an unknown one; ``key`` is the config key that gave it.
    """
    name = SHORT_NAMES.get(name, name)
    source, _, model = name.partition(":")
    if source not in SOURCES or not model:
        known = [*SHORT_NAMES, *(entry.example for entry in SOURCES.values())]
        if not name:
            raise ValueError(f"{key} is empty. Give --backbone NAME, one of {', '.join(known)}.")
        raise ValueError(f"Unknown image network {name!r} ({key}). {did_you_mean(name, known)}")
    return name


def build_network(
    name: str, *, pretrained: bool = True, weights: str = "", key: str = "MODEL.BACKBONE.WEIGHTS"
) -> ImageNetwork:
    """Build a network by name.

    Args:
        name: a short or full name.
        pretrained: False gives random weights.
        weights: a local weights file in place of the published download.
        key: the config key that gave ``weights``, for messages.

    Raises:
        ValueError: for an unknown name, or weights that do not fit.
        FileNotFoundError: if the weights could not be loaded, saying how to get them.
    """
    name = full_name(name)
    source, model = name.split(":", 1)
    if weights and not Path(weights).is_file():
        raise FileNotFoundError(f"{key}: no such file: {weights}.")
    network = SOURCES[source].build(model, pretrained, weights)
    network.name = name
    network.module.requires_grad_(True).float()
    return network


def empty_network(
    name: str, state: Mapping[str, Tensor], *, input_size: int, options: Mapping | None = None
) -> ImageNetwork:
    """The architecture for given weights; nothing is downloaded.

    Args:
        name: full name.
        state: the weights, from which a source may read shapes.
        input_size: pixels.
        options: ``network_options`` of the trained network; None if they were not kept.
    """
    prefix, _, model = name.partition(":")
    source = SOURCES[prefix]
    if source.empty is None:
        network = source.build(model, False, "")
    else:
        network = source.empty(model, state, input_size, options)
    network.name, network.input_size = name, input_size
    network.module.float()
    return network


def network_options(name: str, network: nn.Module) -> dict[str, Any]:
    """What the weights of a network do not tell; {} for most."""
    source = SOURCES.get(name.partition(":")[0])
    return source.options(network) if source else {}


def takes_any_size(network: nn.Module) -> bool:
    """Whether a network reads images of other sizes than the one it was trained at."""
    config = getattr(network, "default_cfg", None) or {}
    has_mark = any(getattr(network, name, None) is not None for name in _FIXED_SIZE_MARKS)
    return not has_mark and not config.get("fixed_input_size", False)


def remove_classifier(network: nn.Module, name: str) -> None:
    """Replace a torchvision classifier by the identity.

    Raises:
        ValueError: if the network has none.
    """
    head = next((attribute for attribute in _HEADS if hasattr(network, attribute)), None)
    if head is None:
        raise ValueError(f"{name} has no classifier under the names {', '.join(_HEADS)}.")
    setattr(network, head, nn.Identity())


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into eval mode; restore the modes afterwards."""
    training = [module for module in network.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@torch.no_grad()
def feature_width(network: nn.Module, size: int = DEFAULT_SIZE) -> int:
    """n of the features (B, n) that a network gives for one black image.

    Raises:
        ValueError: if it gives another shape.
    """
    with evaluating(network):
        features = network(next(network.parameters()).new_zeros(1, 3, size, size))
    if not isinstance(features, Tensor) or features.ndim != 2:
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(
            f"{type(network).__name__} returns {shape} for one image; expected one row of features "
            "(1, n). Remove its head, wrap it in a module that pools, or take a model from timm."
        )
    return features.shape[1]


def not_available(name: str, where: str, error: Exception) -> FileNotFoundError:
    """The error for pre-trained weights that are neither here nor could be downloaded."""
    reason = str(error).splitlines()[0][:200] if str(error) else ""
    return FileNotFoundError(
        f"Could not load pre-trained weights for {name} ({type(error).__name__}: {reason}). "
        f"Source: {where}. Run once with network access, or fetch the file elsewhere and set "
        "MODEL.BACKBONE.WEIGHTS (AMU: TRAINER.AMU.AUX_WEIGHTS) to its path, or ask for random "
        "initialisation with MODEL.BACKBONE.PRETRAINED False (its results mean nothing beside "
        "published ones). See DATASETS.md, section Students and teachers."
    )


def does_not_fit(name: str, weights: str, why: str) -> ValueError:
    """The error for a weights file of another network, in one line."""
    reason = " ".join(why.split())
    reason = f"{reason[:300]}..." if len(reason) > 300 else reason
    return ValueError(f"{weights} holds no weights of {name}: {reason}")


def _difference(state: Mapping[str, Tensor], network: nn.Module) -> str:
    """What a file's entries and a network's do not share, in words."""
    own = network.state_dict()
    told = [
        f"{key} is {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ][:1]
    if missing := [key for key in own if key not in state]:
        told.append(f"it lacks {len(missing)} entries ({', '.join(missing[:3])})")
    if unknown := [key for key in state if key not in own]:
        told.append(f"has {len(unknown)} others ({', '.join(unknown[:3])})")
    return f"{', '.join(told)}."


# --------------------------------------------------------------------- torchvision
def _torchvision(model: str, pretrained: bool, weights: str) -> ImageNetwork:
    from torchvision import models

    name = f"torchvision:{model}"
    if model not in models.list_models(module=models):
        known = models.list_models(module=models)
        raise ValueError(
            f'torchvision has no classification model "{model}". {did_you_mean(model, known)}'
        )
    try:
        entry = "IMAGENET1K_V1" if pretrained and not weights else None
        with tensors_only():
            network = models.get_model(model, weights=entry)
    except OSError as error:
        url = models.get_model_weights(model)["IMAGENET1K_V1"].url
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise not_available(name, f"{url} -> {folder}", error) from error
    remove_classifier(network, name)
    if weights:
        own = network.state_dict()  # a file may hold a classifier, of any number of classes
        heads = tuple(f"{head}." for head in _HEADS)
        found = read_tensors(weights).items()
        tensors = {key: value for key, value in found if key in own or not key.startswith(heads)}
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            raise does_not_fit(name, weights, _difference(tensors, network)) from error
    if getattr(network, "aux_logits", False):
        raise ValueError(
            f"{name} returns auxiliary logits besides its features while it trains, so that it "
            "cannot be a student. Take the model of that name from timm."
        )
    return ImageNetwork(network, feature_width(network))


# --------------------------------------------------------------------- timm
def _timm(model: str, pretrained: bool, weights: str) -> ImageNetwork:
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
    network = _timm_network(model, pretrained, weights)
    config = network.default_cfg
    size = config["input_size"][-1]
    # what comes out is asked for: timm's num_features counts the width before a hidden head layer
    width = feature_width(network, size)
    return ImageNetwork(network, width, size, tuple(config["mean"]), tuple(config["std"]))


def _timm_network(model: str, pretrained: bool, weights: str) -> Any:
    import timm

    # the file is read here: timm receives tensors, never a pickle
    tensors = read_tensors(weights) if weights else None
    overlay = {"state_dict": tensors, "hf_hub_id": None, "url": ""} if weights else None
    try:
        with tensors_only(), seeded(0) if weights else nullcontext():  # see _check_all_loaded
            network = timm.create_model(
                model,
                pretrained=pretrained or bool(weights),
                num_classes=0,
                pretrained_cfg_overlay=overlay,
            )
    except (OSError, RuntimeError, KeyError, AttributeError, ValueError) as error:
        if tensors is not None:
            untrained = timm.create_model(model, pretrained=False, num_classes=0)
            why = _difference(tensors, untrained)
            raise does_not_fit(f"timm:{model}", weights, why) from error
        if not pretrained:
            raise
        hub = f"https://huggingface.co/timm/{model} -> the Hugging Face cache (HF_HOME)"
        raise not_available(f"timm:{model}", hub, error) from error
    if weights:
        with seeded(0):
            untrained = timm.create_model(model, pretrained=False, num_classes=0)
        _check_all_loaded(network, untrained, f"timm:{model}", weights)
    return network


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
        raise does_not_fit(name, weights, f"it has no {', '.join(left[:5])}.")


register_source("torchvision", Source(_torchvision, "torchvision:<model>"))
register_source("timm", Source(_timm, "timm:<model>.<tag>"))
