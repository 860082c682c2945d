"""Backbones of the open_clip_torch package, by name `open_clip:<architecture>/<pretrained>`.

A model whose layout fits becomes our CLIP, with its activation and head counts; conversion counts
only if both models give the same features on a probe. Any other model is an OpenCLIP
(clip/foreign/).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .activation import OPEN_CLIP_CONFIG, activation_of, check_activation, read_json, section
from .checkpoint import read_weights
from .files import OPEN_CLIP_FIRST, is_open_clip_folder, published_activations, weights_in
from .foreign import OpenCLIP
from .foreign.image import same_features
from .hub import cached_only_when_offline
from .hub_tokenizers import LOCAL, load_tokenizer, text_config
from .layouts import check_numbers, to_openai_layout
from .model import CLIP, QuickGELU, build_clip
from .tokens import ForeignTokens
from .two_towers import TwoTowers

logger = logging.getLogger(__name__)

PREFIX = "open_clip:"
SCHEMAS = ("hf-hub:", LOCAL)  # names with which open_clip finds config and weights at once
NAMES = (PREFIX, *SCHEMAS)
NUMPY = (".npz", ".npy")  # of big_vision, which open_clip reads itself
IMAGE_KEYS = ("mean", "std", "interpolation", "resize_mode")  # of open_clip's preprocessing
RESIZE_MODES = ("shortest", "squash")


def load_open_clip(
    name: str,
    *,
    precision: str = "fp32",
    cache_dir: str | os.PathLike | None = None,
    activation: str = "",
    file: Path | None = None,
) -> CLIP | OpenCLIP:
    """Load `open_clip:<architecture>/<pretrained>`, `hf-hub:<repository>` or `local-dir:<folder>`.

    Args:
        name: pretrained is a tag of open_clip, or the path of a weights file or its folder.
        precision: "fp32", or "fp16" for OpenAI's mixed storage (converted models only).
        cache_dir: folder of downloaded weights (default: the package's).
        activation: "quick_gelu" or "gelu": refuse weights or architectures with the other one.
        file: of a `local-dir:` that holds several; default: open_clip's.

    Raises:
        ValueError: if the architecture, the tag, the activation or its resizing does not fit.
        RuntimeError: if the package or the weights are missing.
    """
    try:
        import open_clip
    except ImportError as err:
        raise RuntimeError(f"{name} needs a package: pip install open_clip_torch") from err
    check_activation(activation)
    arch, pretrained = _split(name)
    file = file or _weights_file(arch, pretrained)
    text_model = text_config(arch).get("hf_model_name", "")  # its configuration is the hub's
    is_here = file is not None and not text_model
    with (
        nullcontext(True) if is_here else cached_only_when_offline() as is_online,
        _without_notes(),
    ):
        try:
            inner, classes = _create(arch, pretrained, file, cache_dir)
        except ImportError as err:
            raise RuntimeError(
                f"{name} needs a further package ({err}): pip install 'vltune[backbones]'"
            ) from err
        except (RuntimeError, OSError, ValueError, KeyError, TypeError, AttributeError) as err:
            reason = " ".join(str(err).split())[:400]
            if is_here:
                raise RuntimeError(f"{name} could not be loaded: {reason}") from err
            raise RuntimeError(
                _not_loaded(name, arch, reason, is_online=is_online, text_model=text_model)
            ) from err
    tokenizer = load_tokenizer(name, arch, file and file.parent)
    is_quick = _is_quick(inner)
    if activation and is_quick is not None and is_quick != (activation == "quick_gelu"):
        raise ValueError(
            f"activation is {activation}, but {name} is built with "
            f"{'quick_gelu' if is_quick else 'gelu'}. Leave it out, or name the architecture "
            f"{'without' if is_quick else 'with'} -quickgelu."
        )
    if file is not None and not arch.startswith(LOCAL):
        _check_file(arch, file, classes, is_quick)
    inner.eval()
    resize = open_clip.get_model_preprocess_cfg(inner).get("resize_mode") or "shortest"
    if resize not in RESIZE_MODES:
        raise ValueError(
            f'{name} was trained on images resized by the rule "{resize}". Backbones that work '
            f"take one of: {', '.join(RESIZE_MODES)}."
        )
    return from_open_clip(inner, tokenizer, precision=precision)


def from_open_clip(inner: Any, tokenizer: Any, *, precision: str = "fp32") -> CLIP | OpenCLIP:
    """An open_clip model (in eval mode, float32) as our CLIP if its layout is CLIP's, or wrapped.

    Args:
        tokenizer: the model's own, of `open_clip.get_tokenizer`.
        precision: "fp32", or "fp16": OpenAI's mixed storage for our CLIP, else all weights.
    """
    import open_clip

    try:
        model = convert(inner, precision=precision)
    except (ValueError, RuntimeError, AttributeError):
        wrapped = OpenCLIP(inner, tokenizer).eval()
        take_preprocessing(wrapped, inner)
        return wrapped.half() if precision == "fp16" else wrapped
    if not isinstance(tokenizer, open_clip.SimpleTokenizer):
        model.tokenizer = ForeignTokens(tokenizer)
    return model


def _split(name: str) -> tuple[str, str]:
    """Architecture and weights of a name, checked; a schema of open_clip names both at once."""
    rest = name.removeprefix(PREFIX)
    if rest.startswith(SCHEMAS):
        schema, _, place = rest.partition(":")
        folder = Path(place)
        if schema == "local-dir" and not is_open_clip_folder(folder):
            held = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else None
            raise ValueError(
                f"{name}: {folder} has no {OPEN_CLIP_CONFIG}, which open_clip downloads hold"
                f"{'' if held is None else ' (found ' + ', '.join(held[:6]) + ')'}. For a Hugging "
                "Face folder or a weights file, give its path alone."
            )
        if schema == "local-dir":
            _check_folder(folder)
        return rest, ""
    arch, _, pretrained = rest.partition("/")
    _check_name(name, arch, pretrained)
    return arch, pretrained


def _weights_file(arch: str, pretrained: str) -> Path | None:
    """The local file that a name means; None: open_clip finds the weights."""
    place = Path(arch.removeprefix(LOCAL) if arch.startswith(LOCAL) else pretrained)
    if arch.startswith(LOCAL) or pretrained and place.is_dir():
        return weights_in(place, OPEN_CLIP_FIRST)
    return place if pretrained and place.is_file() else None


@contextmanager
def _without_notes() -> Iterator[None]:
    """Without what open_clip logs at the root: that a model which is filled here is random."""

    def is_ours(record: logging.LogRecord) -> bool:
        return "open_clip" not in Path(record.pathname).parts

    logging.root.addFilter(is_ours)
    try:
        yield
    finally:
        logging.root.removeFilter(is_ours)


def _check_folder(folder: Path) -> None:
    """Refuse a folder whose configuration is not whole.

    Raises:
        ValueError: naming the configuration and what it lacks.
    """
    config = section(read_json(folder / OPEN_CLIP_CONFIG), "model_cfg")
    kinds = {"embed_dim": int, "vision_cfg": dict, "text_cfg": dict}
    missing = [name for name, kind in kinds.items() if not isinstance(config.get(name), kind)]
    if missing:
        raise ValueError(
            f"{folder / OPEN_CLIP_CONFIG} is not a configuration of open_clip: its model_cfg has "
            f"no {', '.join(missing)}. Download it again."
        )


def _create(
    arch: str, pretrained: str, file: Path | None, cache_dir: str | os.PathLike | None
) -> tuple[nn.Module, set[str]]:
    """The model, and the module classes that a TorchScript archive names."""
    import open_clip

    # the schema of a folder names its weights, too; big_vision's arrays are read by open_clip
    if file is None or file.suffix in NUMPY:
        folder = None if cache_dir is None else str(cache_dir)
        inner = open_clip.create_model(
            arch, pretrained=pretrained or None, cache_dir=folder, require_pretrained=True
        )
        return inner, set()
    found = read_weights(file)
    check_numbers(found.tensors)
    images = {} if arch.startswith(LOCAL) else _preprocessing(arch, file)
    inner = open_clip.create_model(
        arch, pretrained=None, load_weights=False, force_preprocess_cfg=images
    )
    _fill(inner, to_openai_layout(found.tensors) if _is_ours(inner) else found.tensors)
    return inner, found.classes


def _preprocessing(arch: str, file: Path) -> dict[str, Any]:
    """How images are prepared for a file of an architecture: as for its published weights."""
    import open_clip

    ways: dict[tuple, list[str]] = {}
    for tag in open_clip.list_pretrained_tags_by_model(arch):
        published = open_clip.get_pretrained_cfg(arch, tag)
        ways.setdefault(tuple(published.get(key) for key in IMAGE_KEYS), []).append(tag)
    if not ways:
        return {}
    way, *others = sorted(ways, key=lambda way: -len(ways[way]))
    if others:
        logger.warning(
            "%s does not tell how its images are prepared: as those of %s (%s). If it is one of "
            "%s, name the tag, or a folder with its %s.",
            *(file, ways[way][0], dict(zip(IMAGE_KEYS, way))),
            *(", ".join(tag for other in others for tag in ways[other]), OPEN_CLIP_CONFIG),
        )
    return dict(zip(IMAGE_KEYS, way))


def _is_ours(inner: nn.Module) -> bool:
    """Whether weights in OpenAI's layout, or one that is renamed into it, may belong to a model."""
    import open_clip

    return type(inner) is open_clip.CLIP and not hasattr(inner.visual, "trunk")


def _fill(inner: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load a state dict as open_clip does, whatever layout that package knows."""
    from open_clip import factory

    weights = dict(factory.convert_state_dict(inner, dict(tensors)))
    if "positional_embedding" in weights and not hasattr(inner, "positional_embedding"):
        weights = factory.convert_to_custom_text_state_dict(weights)
    for name in ("logit_scale", "logit_bias"):
        if name in weights and getattr(inner, name, None) is not None:
            weights[name] = weights[name].reshape(getattr(inner, name).shape)
    weights.pop("text.transformer.embeddings.position_ids", None)  # of older transformers
    factory.resize_pos_embed(weights, inner)
    factory.resize_text_pos_embed(weights, inner)
    inner.load_state_dict(weights)


def _not_loaded(name: str, arch: str, reason: str, *, is_online: bool, text_model: str) -> str:
    state = "" if is_online else "The Hugging Face hub does not answer. "
    if text_model:
        return (
            f"{name} could not be loaded: {state}{reason}\nIts text tower is built from the "
            f"configuration of {text_model}: hf download {text_model} config.json on a machine "
            "with network, and copy the Hugging Face cache (environment variable HF_HOME)."
        )
    return (
        f"The weights of {name} could not be loaded: {state}{reason}\nopen_clip keeps them in the "
        "Hugging Face cache (environment variable HF_HOME); download them on a machine with "
        f'network, or give a file: "{PREFIX}{arch.rpartition(":")[2]}/<path>".'
    )


def _is_quick(inner: nn.Module) -> bool | None:
    """Whether a model uses QuickGELU; None for towers whose activation open_clip does not set."""
    names = {type(module).__name__ for module in inner.modules()}
    if "QuickGELU" in names:
        return True
    return False if "GELU" in names else None


def _check_file(arch: str, file: Path, classes: set[str], is_quick: bool | None) -> None:
    """Compare the activation that a weights file names with the architecture's.

    Raises:
        ValueError: if they differ.
    """
    import open_clip

    told = activation_of(file, classes, known_digests=published_activations())
    built = {True: "quick_gelu", False: "gelu", None: ""}[is_quick]
    if told and built and told != built:
        base = arch.removesuffix("-quickgelu")
        fitting = f"{base}-quickgelu" if told == "quick_gelu" else base
        raise ValueError(
            f"{file} was trained with {told}, {arch} is built with {built}: every number would be "
            f'wrong. Use "{PREFIX}{fitting}/{file}".'
        )
    other = arch.removesuffix("-quickgelu") if is_quick else f"{arch}-quickgelu"
    if not told and built and other in open_clip.list_models():
        logger.warning(
            "%s does not tell its activation: it is run with %s, as %s says. If it was trained "
            "with the other one, name the architecture %s.",
            *(file, built, arch, other),
        )


def _check_name(name: str, arch: str, pretrained: str) -> None:
    import difflib

    import open_clip

    config = open_clip.get_model_config(arch)
    if config is None:
        close = difflib.get_close_matches(arch, open_clip.list_models(), n=3)
        hint = f" Did you mean {', '.join(close)}?" if close else ""
        raise ValueError(f'open_clip has no architecture "{arch}" ({name}).{hint}')
    tags = open_clip.list_pretrained_tags_by_model(arch)
    if not pretrained:
        raise ValueError(
            f"{name} names no weights: write {PREFIX}{arch}/<pretrained>, with one of "
            f"{', '.join(tags) or '(no tags)'}, or the path of a weights file."
        )
    tag = open_clip.get_pretrained_cfg(arch, pretrained)
    if not tag:
        if not Path(pretrained).exists():
            raise ValueError(
                f"{name}: {pretrained} is neither a file or folder nor a tag of {arch} "
                f"({', '.join(tags) or 'which has none'})."
            )
        return
    is_quick, wants_quick = config.get("quick_gelu", False), tag.get("quick_gelu", False)
    if is_quick != wants_quick:
        base = arch.removesuffix("-quickgelu")
        fitting = f"{base}-quickgelu" if wants_quick else base
        raise ValueError(
            f"The weights {pretrained} were trained with{'' if wants_quick else 'out'} QuickGELU, "
            f"{arch} is the architecture with{'' if is_quick else 'out'} it: every number would be "
            f'wrong. Use "{PREFIX}{fitting}/{pretrained}".'
        )


def convert(inner: Any, *, precision: str = "fp32") -> CLIP:
    """Convert an open_clip model (in eval mode, float32) into our CLIP.

    Raises:
        ValueError: if its layout or its features are not CLIP's.
        RuntimeError: if its weights do not fit CLIP's shapes.
        AttributeError: if it lacks a part of CLIP.
    """
    import open_clip

    if type(inner) is not open_clip.CLIP:
        raise ValueError(f"open_clip builds it as {type(inner).__name__}")
    _check_layout(inner)
    state_dict = {key: value.detach().cpu() for key, value in inner.state_dict().items()}
    state_dict["logit_scale"] = state_dict["logit_scale"].reshape(())
    overrides = {"transformer_heads": inner.transformer.resblocks[0].attn.num_heads}
    activations = {type(inner.transformer.resblocks[0].mlp.gelu)}
    if "visual.proj" in state_dict:
        block = inner.visual.transformer.resblocks[0]
        overrides["vision_heads"] = block.attn.num_heads
        activations.add(type(block.mlp.gelu))
    else:
        overrides["vision_heads"] = inner.visual.attnpool.num_heads
    if len(activations) > 1:
        raise ValueError("its two towers have different activations")
    is_quick = activations.pop().__name__ == "QuickGELU"
    overrides["activation"] = QuickGELU if is_quick else nn.GELU
    _check_features(inner, build_clip(state_dict, **overrides))
    model = build_clip(state_dict, precision=precision, **overrides)
    take_preprocessing(model, inner)
    return model


def take_preprocessing(model: TwoTowers, inner: Any) -> None:
    """Tell ``model`` how the images of an open_clip model are prepared."""
    import open_clip

    preprocess = open_clip.get_model_preprocess_cfg(inner)
    model.image_mean, model.image_std = tuple(preprocess["mean"]), tuple(preprocess["std"])
    # as open_clip's own test transform: all but "bilinear" is bicubic
    is_bilinear = preprocess.get("interpolation") == "bilinear"
    model.image_interpolation = "bilinear" if is_bilinear else "bicubic"
    model.image_resize = preprocess.get("resize_mode") or "shortest"


def _check_layout(inner: Any) -> None:
    """Refuse, before anything is built, what CLIP's arguments cannot say."""
    if inner.text_pool_type != "argmax" or inner.attn_mask is None:
        raise ValueError("its texts are read in another way")
    towers = [inner, inner.visual] if hasattr(inner.visual, "transformer") else [inner]
    for layer in (tower.transformer.resblocks[0].mlp.c_fc for tower in towers):
        if layer.out_features != 4 * layer.in_features:
            raise ValueError("its MLPs are not four times as wide as its tokens")


@torch.no_grad()
def _check_features(inner: Any, model: CLIP) -> None:
    """Compare both models on one noise image and two made-up prompts."""
    side = model.visual.input_resolution
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    tokens = torch.zeros(2, model.context_length, dtype=torch.long)
    eot, sot = model.vocab_size - 1, model.vocab_size - 2
    for row, length in enumerate((3, 7)):
        tokens[row, 0], tokens[row, length + 1] = sot, eot
        tokens[row, 1 : length + 1] = torch.arange(1, length + 1) * 37
    pairs = {
        "image": (inner.encode_image(images), model.encode_image(images)),
        "text": (inner.encode_text(tokens), model.encode_text(tokens)),
    }
    for name, (theirs, ours) in pairs.items():
        if not same_features(ours, theirs):
            raise ValueError(f"its {name} features are computed differently")
